/* int8 with vpdpbusd on 512 bits. */
#define VECTOR 64 /* bytes */
#include "limit.h"
#include <immintrin.h>

#define CLEAR(r, v) __m512i sum##r##v = _mm512_setzero_si512();
#define STEP(r, v)                                                                 \
    ACCUMULATE("vpdpbusd %2, %1, %0", sum##r##v,                                   \
               _mm512_set1_epi32(four_bytes(a + r * k + from + i)),                \
               _mm512_load_si512(w + 64 * (i + v)));
#define STORE(r, v) _mm512_store_si512(out + 64 * r + 16 * v, sum##r##v);
INLINE void dot(int k, const uint8_t *w, const uint8_t *a, int32_t *out) {
    EACH_6X4(CLEAR)
    for (int from = 0; from < k; from += PERIOD)
        for (int i = 0; i < PERIOD; i += 4) {
            EACH_6X4(STEP)
        }
    EACH_6X4(STORE)
}
#undef CLEAR
#undef STEP
#undef STORE

DENSE_TILES(dot6, dot)

static const struct kernel kernels[] = {ENTRIES(dot6, "int8: vpdpbusd zmm 6 x 4", BYTES, 6, 64)};
#include "run.h"

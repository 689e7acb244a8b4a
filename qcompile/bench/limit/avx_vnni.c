/* int8 with vpdpbusd on 256 bits, as processors without AVX-512 have it. */
#define VECTOR 32 /* bytes */
#include "limit.h"
#include <immintrin.h>

#define CLEAR(r, v) __m256i sum##r##v = _mm256_setzero_si256();
#define STEP(r, v)                                                                 \
    ACCUMULATE("%{vex%} vpdpbusd %2, %1, %0", sum##r##v,                           \
               _mm256_set1_epi32(four_bytes(a + r * k + from + i)),                \
               _mm256_load_si256((const __m256i *)(w + 16 * i + 32 * v)));
#define STORE(r, v) _mm256_store_si256((__m256i *)(out + 16 * r + 8 * v), sum##r##v);
INLINE void dot(int k, const uint8_t *w, const uint8_t *a, int32_t *out) {
    EACH_6X2(CLEAR)
    for (int from = 0; from < k; from += PERIOD)
        for (int i = 0; i < PERIOD; i += 4) {
            EACH_6X2(STEP)
        }
    EACH_6X2(STORE)
}
#undef CLEAR
#undef STEP
#undef STORE

DENSE_TILES(dot6, dot)

static const struct kernel kernels[] = {ENTRIES(dot6, "int8: vpdpbusd ymm 6 x 2", BYTES, 6, 16)};
#include "run.h"

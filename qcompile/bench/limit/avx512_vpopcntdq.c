/* Binary dot products with VPOPCNTDQ: plain, and with one or two levels of carry-save before it. */
#define VECTOR 64 /* bytes */
#include "limit.h"
#include <immintrin.h>

#include "carry512.h"

INLINE void plain(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    __m512i sum[8];
    for (int r = 0; r < rows; r++) sum[r] = _mm512_setzero_si512();
    UNROLL(6) for (int i = 0; i < k / 32; i++) {
        __m512i weight = _mm512_load_si512(w + 16 * i);
        for (int r = 0; r < rows; r++) {
            __m512i x = _mm512_xor_si512(weight, _mm512_set1_epi32(a[r * (k / 32) + i]));
            sum[r] = _mm512_add_epi32(sum[r], _mm512_popcnt_epi32(x));
        }
    }
    for (int r = 0; r < rows; r++) finish512(k, sum[r], out + 16 * r);
}

/* Two words leave a sum bit, which goes on, and a carry, which is counted: 5 instructions, not 6. */
INLINE void one_level(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    __m512i ones[8], twos[8], carry[8];
    for (int r = 0; r < rows; r++) ones[r] = twos[r] = _mm512_setzero_si512();
    UNROLL(3) for (int i = 0; i < k / 32; i += 2) {
        pair512(rows, w + 16 * i, a + i, k / 32, ones, carry);
        for (int r = 0; r < rows; r++)
            twos[r] = _mm512_add_epi32(twos[r], _mm512_popcnt_epi32(carry[r]));
    }
    for (int r = 0; r < rows; r++) {
        __m512i sum = _mm512_add_epi32(_mm512_popcnt_epi32(ones[r]), _mm512_slli_epi32(twos[r], 1));
        finish512(k, sum, out + 16 * r);
    }
}

INLINE void two_levels(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    __m512i ones[8], twos[8], fours[8], low[8], carry[8];
    for (int r = 0; r < rows; r++) ones[r] = twos[r] = fours[r] = _mm512_setzero_si512();
    UNROLL(3) for (int i = 0; i + 4 <= k / 32; i += 4) {
        pair512(rows, w + 16 * i, a + i, k / 32, ones, low);
        pair512(rows, w + 16 * (i + 2), a + i + 2, k / 32, ones, carry);
        for (int r = 0; r < rows; r++) {
            __m512i up = add512(&twos[r], low[r], carry[r]);
            fours[r] = _mm512_add_epi32(fours[r], _mm512_popcnt_epi32(up));
        }
    }
    if (k / 32 % 4) {
        int i = k / 32 - 2;
        pair512(rows, w + 16 * i, a + i, k / 32, ones, carry);
        for (int r = 0; r < rows; r++) {
            __m512i up = add512(&twos[r], carry[r], _mm512_setzero_si512());
            fours[r] = _mm512_add_epi32(fours[r], _mm512_popcnt_epi32(up));
        }
    }
    for (int r = 0; r < rows; r++) {
        __m512i sum = _mm512_add_epi32(fours[r], fours[r]);
        sum = _mm512_add_epi32(sum, _mm512_popcnt_epi32(twos[r]));
        sum = _mm512_add_epi32(_mm512_popcnt_epi32(ones[r]), _mm512_slli_epi32(sum, 1));
        finish512(k, sum, out + 16 * r);
    }
}

TILES(plain4, plain, 4)
TILES(plain6, plain, 6)
TILES(one2, one_level, 2)
TILES(one4, one_level, 4)
TILES(one6, one_level, 6)
TILES(two4, two_levels, 4)

static const struct kernel kernels[] = {
    ENTRIES(plain4, "1 bit: vpopcntd, 4 rows", WORDS, 4, 16),
    ENTRIES(plain6, "1 bit: vpopcntd, 6 rows", WORDS, 6, 16),
    ENTRIES(one2, "1 bit: carry-save of 2 words, vpopcntd, 2 rows", WORDS, 2, 16),
    ENTRIES(one4, "1 bit: carry-save of 2 words, vpopcntd, 4 rows", WORDS, 4, 16),
    ENTRIES(one6, "1 bit: carry-save of 2 words, vpopcntd, 6 rows", WORDS, 6, 16),
    ENTRIES(two4, "1 bit: carry-save of 4 words, vpopcntd, 4 rows", WORDS, 4, 16),
};
#include "run.h"

/* Without VPOPCNTDQ: byte popcount by vpshufb, carry-save adders before it, and nibble lookup. */
#define VECTOR 64 /* bytes */
#include "limit.h"
#include <immintrin.h>

#include "carry512.h"

INLINE __m512i count_bytes(__m512i x) {
    __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    __m512i mask = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(x, mask));
    __m512i high = _mm512_and_si512(_mm512_srli_epi16(x, 4), mask);
    return _mm512_add_epi8(low, _mm512_shuffle_epi8(table, high));
}

/* Four bytes of each 32-bit lane. */
INLINE __m512i add_bytes(__m512i x) {
    __m512i pairs = _mm512_maddubs_epi16(x, _mm512_set1_epi8(1));
    return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}

INLINE void bytes(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    __m512i total[8], sum[8];
    for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_si512();
    for (int from = 0; from < k / 32; from += 18) { /* 18 * 8 < 256 */
        for (int r = 0; r < rows; r++) sum[r] = _mm512_setzero_si512();
        UNROLL(6) for (int i = from; i < from + 18; i++) {
            __m512i weight = _mm512_load_si512(w + 16 * i);
            for (int r = 0; r < rows; r++) {
                __m512i x = _mm512_xor_si512(weight, _mm512_set1_epi32(a[r * (k / 32) + i]));
                sum[r] = _mm512_add_epi8(sum[r], count_bytes(x));
            }
        }
        for (int r = 0; r < rows; r++) total[r] = _mm512_add_epi32(total[r], add_bytes(sum[r]));
    }
    for (int r = 0; r < rows; r++) finish512(k, total[r], out + 16 * r);
}

struct planes {
    __m512i at[5][4]; /* plane p of row r has the weight 2^p */
};

/* Add 2^levels words to the planes; returns the carries out of plane `levels` - 1. */
INLINE void group2(int rows, const uint32_t *w, const uint32_t *a, int stride, struct planes *s,
                   __m512i *carry) {
    pair512(rows, w, a, stride, s->at[0], carry);
}
#define GROUP(WORDS, HALF, PLANE)                                                  \
    INLINE void group##WORDS(int rows, const uint32_t *w, const uint32_t *a, int stride, \
                             struct planes *s, __m512i *carry) {                   \
        __m512i first[4], second[4];                                               \
        group##HALF(rows, w, a, stride, s, first);                                 \
        group##HALF(rows, w + 16 * HALF, a + HALF, stride, s, second);             \
        for (int r = 0; r < rows; r++) carry[r] = add512(&s->at[PLANE][r], first[r], second[r]); \
    }
GROUP(4, 2, 1)
GROUP(8, 4, 2)
GROUP(16, 8, 3)

/* Add carries of the weight 2^plane, where no second ones come along, up to `planes`. */
INLINE void ripple(int rows, int plane, int planes, struct planes *s, __m512i *carry,
                   __m512i *high) {
    for (; plane < planes; plane++)
        for (int r = 0; r < rows; r++) {
            __m512i up = _mm512_and_si512(s->at[plane][r], carry[r]);
            s->at[plane][r] = _mm512_xor_si512(s->at[plane][r], carry[r]);
            carry[r] = up;
        }
    for (int r = 0; r < rows; r++) high[r] = _mm512_add_epi8(high[r], count_bytes(carry[r]));
}

INLINE void carry_save(int planes, int k, int rows, const uint32_t *w, const uint32_t *a,
                       int32_t *out) {
    int words = k / 32, step = 1 << planes, i = 0;
    struct planes s;
    __m512i high[4], carry[4];
    for (int r = 0; r < rows; r++) {
        high[r] = _mm512_setzero_si512();
        for (int p = 0; p < planes; p++) s.at[p][r] = _mm512_setzero_si512();
    }
    for (; i + step <= words; i += step) {
        if (planes == 4) group16(rows, w + 16 * i, a + i, words, &s, carry);
        if (planes == 3) group8(rows, w + 16 * i, a + i, words, &s, carry);
        for (int r = 0; r < rows; r++) high[r] = _mm512_add_epi8(high[r], count_bytes(carry[r]));
    }
    if (words - i >= 8) {
        group8(rows, w + 16 * i, a + i, words, &s, carry);
        ripple(rows, 3, planes, &s, carry, high);
        i += 8;
    }
    if (words - i >= 4) {
        group4(rows, w + 16 * i, a + i, words, &s, carry);
        ripple(rows, 2, planes, &s, carry, high);
        i += 4;
    }
    if (words - i >= 2) {
        group2(rows, w + 16 * i, a + i, words, &s, carry);
        ripple(rows, 1, planes, &s, carry, high);
    }
    for (int r = 0; r < rows; r++) {
        __m512i low = count_bytes(s.at[planes - 1][r]);
        for (int p = planes - 2; p >= 0; p--)
            low = _mm512_add_epi8(_mm512_add_epi8(low, low), count_bytes(s.at[p][r]));
        __m512i sum = _mm512_slli_epi32(add_bytes(high[r]), planes);
        finish512(k, _mm512_add_epi32(sum, add_bytes(low)), out + 16 * r);
    }
}
INLINE void carry_save3(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    carry_save(3, k, rows, w, a, out);
}
INLINE void carry_save4(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    carry_save(4, k, rows, w, a, out);
}

/* How many bits of each nibble 0..15 differ from n: row n. */
static uint8_t differs[16][16] __attribute__((aligned(64)));
__attribute__((constructor)) static void fill_differs(void) {
    for (int n = 0; n < 16; n++)
        for (int m = 0; m < 16; m++) differs[n][m] = __builtin_popcount(n ^ m);
}

INLINE __m512i table(size_t offset) {
    const __m128i *row = (const __m128i *)(differs[0] + offset);
    return _mm512_broadcast_i32x4(_mm_load_si128(row));
}

/* Four bits of 64 channels at a time; a pixel's table serves all vectors of the tile. */
INLINE void lookup(int k, int rows, int vectors, const uint8_t *w, const uint16_t *a,
                   int32_t *out) {
    __m512i mask = _mm512_set1_epi8(15), bytes = _mm512_set1_epi16(255), zero = _mm512_setzero_si512();
    __m512i even[8], odd[8], sum[8], low[3], high[3];
    for (int x = 0; x < rows * vectors; x++) even[x] = odd[x] = zero;
    for (int from = 0; from < k / 8; from += 24) { /* 24 * 8 < 256 */
        for (int x = 0; x < rows * vectors; x++) sum[x] = zero;
        UNROLL(2) for (int i = from; i < from + 24; i++) {
            for (int v = 0; v < vectors; v++) {
                __m512i both = _mm512_load_si512(w + 64 * (vectors * i + v));
                low[v] = _mm512_and_si512(both, mask);
                high[v] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
            }
            for (int r = 0; r < rows; r++) {
                uint16_t two = a[r * (k / 8) + i];
                __m512i first = table(two & 255), second = table(two >> 8);
                for (int v = 0; v < vectors; v++) {
                    ADD("vpaddb", sum[r * vectors + v], _mm512_shuffle_epi8(first, low[v]));
                    ADD("vpaddb", sum[r * vectors + v], _mm512_shuffle_epi8(second, high[v]));
                }
            }
        }
        for (int x = 0; x < rows * vectors; x++) {
            even[x] = _mm512_add_epi16(even[x], _mm512_and_si512(sum[x], bytes));
            odd[x] = _mm512_add_epi16(odd[x], _mm512_srli_epi16(sum[x], 8));
        }
    }
    for (int x = 0; x < rows * vectors; x++) {
        __m512i half = _mm512_set1_epi32(65535);
        finish512(k, _mm512_and_si512(even[x], half), out + 64 * x);
        finish512(k, _mm512_and_si512(odd[x], half), out + 64 * x + 16);
        finish512(k, _mm512_srli_epi32(even[x], 16), out + 64 * x + 32);
        finish512(k, _mm512_srli_epi32(odd[x], 16), out + 64 * x + 48);
    }
}
INLINE void lookup1(int k, int rows, const uint8_t *w, const uint16_t *a, int32_t *out) {
    lookup(k, rows, 1, w, a, out);
}
INLINE void lookup2(int k, int rows, const uint8_t *w, const uint16_t *a, int32_t *out) {
    lookup(k, rows, 2, w, a, out);
}

#define CLEAR(r, v) __m512 sum##r##v = _mm512_setzero_ps();
#define STEP(r, v)                                                                 \
    ACCUMULATE("vfmadd231ps %2, %1, %0", sum##r##v, _mm512_set1_ps(a[r * k + from + i]), \
               _mm512_load_ps(w + 64 * i + 16 * v));
#define STORE(r, v) _mm512_store_ps(out + 64 * r + 16 * v, sum##r##v);
INLINE void multiply_add(int k, const float *w, const float *a, float *out) {
    EACH_6X4(CLEAR)
    for (int from = 0; from < k; from += PERIOD)
        for (int i = 0; i < PERIOD; i += 1) {
            EACH_6X4(STEP)
        }
    EACH_6X4(STORE)
}
#undef CLEAR
#undef STEP
#undef STORE

TILES(bytes4, bytes, 4)
TILES(eight2, carry_save3, 2)
TILES(eight3, carry_save3, 3)
TILES(sixteen2, carry_save4, 2)
TILES(sixteen3, carry_save4, 3)
TILES(lookup6x1, lookup1, 6)
TILES(lookup2x2, lookup2, 2)
TILES(lookup3x2, lookup2, 3)
TILES(lookup4x2, lookup2, 4)
DENSE_TILES(fma6, multiply_add)

static const struct kernel kernels[] = {
    ENTRIES(bytes4, "1 bit: vpshufb popcount, 4 rows", WORDS, 4, 16),
    ENTRIES(eight2, "1 bit: carry-save of 8 words, 2 rows", WORDS, 2, 16),
    ENTRIES(eight3, "1 bit: carry-save of 8 words, 3 rows", WORDS, 3, 16),
    ENTRIES(sixteen2, "1 bit: carry-save of 16 words, 2 rows", WORDS, 2, 16),
    ENTRIES(sixteen3, "1 bit: carry-save of 16 words, 3 rows", WORDS, 3, 16),
    ENTRIES(lookup6x1, "1 bit: nibble lookup, 6 rows x 1", NIBBLES, 6, 64),
    ENTRIES(lookup2x2, "1 bit: nibble lookup, 2 rows x 2", NIBBLES, 2, 128),
    ENTRIES(lookup3x2, "1 bit: nibble lookup, 3 rows x 2", NIBBLES, 3, 128),
    ENTRIES(lookup4x2, "1 bit: nibble lookup, 4 rows x 2", NIBBLES, 4, 128),
    ENTRIES(fma6, "fp32: vfmadd zmm 6 x 4", FLOATS, 6, 64),
};
#include "run.h"

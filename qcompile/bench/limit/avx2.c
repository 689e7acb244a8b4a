/* 256 bits: byte popcount by vpshufb, carry-save adders before it, nibble lookup; int8 and fp32. */
#define VECTOR 32 /* bytes */
#include "limit.h"
#include <immintrin.h>

INLINE __m256i load(const void *p) { return _mm256_load_si256((const __m256i *)p); }
INLINE void store(void *p, __m256i x) { _mm256_store_si256((__m256i *)p, x); }

INLINE void finish(int k, __m256i differ, int32_t *out) {
    store(out, _mm256_sub_epi32(_mm256_set1_epi32(k), _mm256_add_epi32(differ, differ)));
}

INLINE __m256i count_bytes(__m256i x) {
    __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    __m256i mask = _mm256_set1_epi8(15);
    __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, mask));
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), mask);
    return _mm256_add_epi8(low, _mm256_shuffle_epi8(table, high));
}

INLINE __m256i add_bytes(__m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(x, _mm256_set1_epi8(1));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

INLINE __m256i differing(int k, int i, int r, const uint32_t *w, const uint32_t *a) {
    return _mm256_xor_si256(load(w + 8 * i), _mm256_set1_epi32(a[r * (k / 32) + i]));
}

INLINE void bytes(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    __m256i total[4], sum[4];
    for (int r = 0; r < rows; r++) total[r] = _mm256_setzero_si256();
    for (int from = 0; from < k / 32; from += 18) { /* 18 * 8 < 256 */
        for (int r = 0; r < rows; r++) sum[r] = _mm256_setzero_si256();
        UNROLL(6) for (int i = from; i < from + 18; i++)
            for (int r = 0; r < rows; r++)
                sum[r] = _mm256_add_epi8(sum[r], count_bytes(differing(k, i, r, w, a)));
        for (int r = 0; r < rows; r++) total[r] = _mm256_add_epi32(total[r], add_bytes(sum[r]));
    }
    for (int r = 0; r < rows; r++) finish(k, total[r], out + 8 * r);
}

/* sum += x + y in one plane; returns what carries. */
INLINE __m256i add(__m256i *sum, __m256i x, __m256i y) {
    __m256i u = _mm256_xor_si256(*sum, x);
    __m256i carry = _mm256_or_si256(_mm256_and_si256(*sum, x), _mm256_and_si256(u, y));
    *sum = _mm256_xor_si256(u, y);
    return carry;
}

/* Groups of 2, 4, 8 words of one row into planes 0, 1, 2; each returns what carries out of the last. */
INLINE __m256i group2(int k, int i, int r, const uint32_t *w, const uint32_t *a, __m256i *s) {
    return add(&s[0], differing(k, i, r, w, a), differing(k, i + 1, r, w, a));
}
INLINE __m256i group4(int k, int i, int r, const uint32_t *w, const uint32_t *a, __m256i *s) {
    __m256i first = group2(k, i, r, w, a, s);
    return add(&s[1], first, group2(k, i + 2, r, w, a, s));
}
INLINE __m256i group8(int k, int i, int r, const uint32_t *w, const uint32_t *a, __m256i *s) {
    __m256i first = group4(k, i, r, w, a, s);
    return add(&s[2], first, group4(k, i + 4, r, w, a, s));
}

INLINE void carry_save(int k, int rows, const uint32_t *w, const uint32_t *a, int32_t *out) {
    __m256i zero = _mm256_setzero_si256();
    for (int r = 0; r < rows; r++) {
        __m256i s[3] = {zero, zero, zero}, high = zero, carry;
        int i = 0;
        for (; i + 8 <= k / 32; i += 8)
            high = _mm256_add_epi8(high, count_bytes(group8(k, i, r, w, a, s)));
        if (k / 32 - i >= 4) {
            carry = group4(k, i, r, w, a, s);
            high = _mm256_add_epi8(high, count_bytes(_mm256_and_si256(s[2], carry)));
            s[2] = _mm256_xor_si256(s[2], carry);
            i += 4;
        }
        if (k / 32 - i >= 2) {
            carry = group2(k, i, r, w, a, s);
            __m256i up = _mm256_and_si256(s[1], carry);
            s[1] = _mm256_xor_si256(s[1], carry);
            high = _mm256_add_epi8(high, count_bytes(_mm256_and_si256(s[2], up)));
            s[2] = _mm256_xor_si256(s[2], up);
        }
        __m256i low = count_bytes(s[2]);
        for (int p = 1; p >= 0; p--)
            low = _mm256_add_epi8(_mm256_add_epi8(low, low), count_bytes(s[p]));
        __m256i sum = _mm256_slli_epi32(add_bytes(high), 3);
        finish(k, _mm256_add_epi32(sum, add_bytes(low)), out + 8 * r);
    }
}

/* How many bits of each nibble 0..15 differ from n: row n. */
static uint8_t differs[16][16] __attribute__((aligned(64)));
__attribute__((constructor)) static void fill_differs(void) {
    for (int n = 0; n < 16; n++)
        for (int m = 0; m < 16; m++) differs[n][m] = __builtin_popcount(n ^ m);
}

INLINE __m256i table(size_t offset) {
    const __m128i *row = (const __m128i *)(differs[0] + offset);
    return _mm256_broadcastsi128_si256(_mm_load_si128(row));
}

/* Four bits of 32 channels at a time; a pixel's table serves all vectors of the tile. */
INLINE void lookup(int k, int rows, int vectors, const uint8_t *w, const uint16_t *a,
                   int32_t *out) {
    __m256i mask = _mm256_set1_epi8(15), bytes = _mm256_set1_epi16(255), zero = _mm256_setzero_si256();
    __m256i even[8], odd[8], sum[8], low[3], high[3];
    for (int x = 0; x < rows * vectors; x++) even[x] = odd[x] = zero;
    for (int from = 0; from < k / 8; from += 24) { /* 24 * 8 < 256 */
        for (int x = 0; x < rows * vectors; x++) sum[x] = zero;
        UNROLL(2) for (int i = from; i < from + 24; i++) {
            for (int v = 0; v < vectors; v++) {
                __m256i both = load(w + 32 * (vectors * i + v));
                low[v] = _mm256_and_si256(both, mask);
                high[v] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            }
            for (int r = 0; r < rows; r++) {
                uint16_t two = a[r * (k / 8) + i];
                __m256i first = table(two & 255), second = table(two >> 8);
                for (int v = 0; v < vectors; v++) {
                    ADD("vpaddb", sum[r * vectors + v], _mm256_shuffle_epi8(first, low[v]));
                    ADD("vpaddb", sum[r * vectors + v], _mm256_shuffle_epi8(second, high[v]));
                }
            }
        }
        for (int x = 0; x < rows * vectors; x++) {
            even[x] = _mm256_add_epi16(even[x], _mm256_and_si256(sum[x], bytes));
            odd[x] = _mm256_add_epi16(odd[x], _mm256_srli_epi16(sum[x], 8));
        }
    }
    for (int x = 0; x < rows * vectors; x++) {
        __m256i half = _mm256_set1_epi32(65535);
        finish(k, _mm256_and_si256(even[x], half), out + 32 * x);
        finish(k, _mm256_and_si256(odd[x], half), out + 32 * x + 8);
        finish(k, _mm256_srli_epi32(even[x], 16), out + 32 * x + 16);
        finish(k, _mm256_srli_epi32(odd[x], 16), out + 32 * x + 24);
    }
}
INLINE void lookup1(int k, int rows, const uint8_t *w, const uint16_t *a, int32_t *out) {
    lookup(k, rows, 1, w, a, out);
}
INLINE void lookup2(int k, int rows, const uint8_t *w, const uint16_t *a, int32_t *out) {
    lookup(k, rows, 2, w, a, out);
}

/* Four products of each 32-bit lane. */
INLINE __m256i quads(const uint8_t *pixel, const uint8_t *weight) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(four_bytes(pixel)), load(weight));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

#define CLEAR(r, v) __m256i sum##r##v = _mm256_setzero_si256();
#define STEP(r, v)                                                                 \
    ADD("vpaddd", sum##r##v, quads(a + r * k + from + i, w + 24 * i + 32 * v));
#define STORE(r, v) store(out + 24 * r + 8 * v, sum##r##v);
INLINE void dot(int k, const uint8_t *w, const uint8_t *a, int32_t *out) {
    EACH_3X3(CLEAR)
    for (int from = 0; from < k; from += PERIOD)
        for (int i = 0; i < PERIOD; i += 4) {
            EACH_3X3(STEP)
        }
    EACH_3X3(STORE)
}
#undef CLEAR
#undef STEP
#undef STORE

#define CLEAR(r, v) __m256 sum##r##v = _mm256_setzero_ps();
#define STEP(r, v)                                                                 \
    ACCUMULATE("vfmadd231ps %2, %1, %0", sum##r##v, _mm256_set1_ps(a[r * k + from + i]), \
               _mm256_load_ps(w + 16 * i + 8 * v));
#define STORE(r, v) _mm256_store_ps(out + 16 * r + 8 * v, sum##r##v);
INLINE void multiply_add(int k, const float *w, const float *a, float *out) {
    EACH_6X2(CLEAR)
    for (int from = 0; from < k; from += PERIOD)
        for (int i = 0; i < PERIOD; i += 1) {
            EACH_6X2(STEP)
        }
    EACH_6X2(STORE)
}
#undef CLEAR
#undef STEP
#undef STORE

TILES(bytes2, bytes, 2)
TILES(bytes4, bytes, 4)
TILES(eight2, carry_save, 2)
TILES(lookup6x1, lookup1, 6)
TILES(lookup2x2, lookup2, 2)
TILES(lookup3x2, lookup2, 3)
TILES(lookup4x2, lookup2, 4)
DENSE_TILES(dot3, dot)
DENSE_TILES(fma6, multiply_add)

static const struct kernel kernels[] = {
    ENTRIES(bytes2, "1 bit: vpshufb popcount, 2 rows", WORDS, 2, 8),
    ENTRIES(bytes4, "1 bit: vpshufb popcount, 4 rows", WORDS, 4, 8),
    ENTRIES(eight2, "1 bit: carry-save of 8 words, 2 rows", WORDS, 2, 8),
    ENTRIES(lookup6x1, "1 bit: nibble lookup, 6 rows x 1", NIBBLES, 6, 32),
    ENTRIES(lookup2x2, "1 bit: nibble lookup, 2 rows x 2", NIBBLES, 2, 64),
    ENTRIES(lookup3x2, "1 bit: nibble lookup, 3 rows x 2", NIBBLES, 3, 64),
    ENTRIES(lookup4x2, "1 bit: nibble lookup, 4 rows x 2", NIBBLES, 4, 64),
    ENTRIES(dot3, "int8: vpmaddubsw 3 x 3", BYTES, 3, 24),
    ENTRIES(fma6, "fp32: vfmadd ymm 6 x 2", FLOATS, 6, 16),
};
#include "run.h"

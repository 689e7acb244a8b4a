/* Adders of bit planes with vpternlog; the XOR with the weights is part of the first. */

/* Words i and i + 1 of each row into `ones`; what carries has twice the weight. Three instructions:
   u = s ^ w0 ^ a0, n = u ^ w1 ^ a1, carry = u ? ~n : s. */
INLINE void pair512(int rows, const uint32_t *w, const uint32_t *a, int stride, __m512i *ones,
                    __m512i *carry) {
    __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 16);
    for (int r = 0; r < rows; r++) {
        __m512i a0 = _mm512_set1_epi32(a[r * stride]), a1 = _mm512_set1_epi32(a[r * stride + 1]);
        __m512i u = _mm512_ternarylogic_epi32(ones[r], w0, a0, 0x96);
        __m512i n = _mm512_ternarylogic_epi32(u, w1, a1, 0x96);
        carry[r] = _mm512_ternarylogic_epi32(u, n, ones[r], 0x3A);
        ones[r] = n;
    }
}

/* sum += x + y in one plane; returns what carries. */
INLINE __m512i add512(__m512i *sum, __m512i x, __m512i y) {
    __m512i carry = _mm512_ternarylogic_epi32(*sum, x, y, 0xE8);
    *sum = _mm512_ternarylogic_epi32(*sum, x, y, 0x96);
    return carry;
}

/* K - 2 * (places that differ), stored. */
INLINE void finish512(int k, __m512i differ, int32_t *out) {
    differ = _mm512_sub_epi32(_mm512_set1_epi32(k), _mm512_add_epi32(differ, differ));
    _mm512_store_si512(out, differ);
}

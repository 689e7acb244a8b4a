// What generated kernels call. All that differs between architectures is here; a kernel's text is the
// same for all of them.

#ifdef QC_EMULATED
#define QC_ARCH QC_EMULATED
#elif defined(__CUDA_ARCH__)
#define QC_ARCH __CUDA_ARCH__
#else
#define QC_ARCH 750  // the host's half of nvcc, of which nothing remains
#endif

#define QC_DEVICE __device__ __forceinline__

// --- products of a warp ---------------------------------------------------------------------------
//
// Fragments are those of m16n8k256.b1 and m16n8k32.s8, in 32-bit words, for lane l, g = l / 4, t = l % 4:
//   a[0] row g, word t; a[1] row g + 8, word t; a[2] row g, word t + 4; a[3] row g + 8, word t + 4
//   b[0] column g, word t; b[1] column g, word t + 4
//   acc[0], acc[1] row g, columns 2t, 2t + 1; acc[2], acc[3] the same of row g + 8
// Products of signs add up to what `qc_differing` takes: bits that differ, where the tensor cores count
// these (QC_B1_XOR), else bits that are 1 in both; then the ones of rows and columns are counted as well.

#if QC_ARCH < 900
#define QC_B1_XOR 1
#else
#define QC_B1_XOR 0
#endif

#if QC_ARCH >= 1000
#define QC_PLANES 8
#else
#define QC_PLANES 1
#endif

struct alignas(8) qc_words2 { unsigned x, y; };
struct alignas(16) qc_words4 { unsigned x, y, z, w; };

// Bytes reversed in their bits: what stands at bit j comes to 7 - j.
QC_DEVICE unsigned qc_reversed_bits_of_bytes(unsigned x) {
  x = (x & 0x0F0F0F0Fu) << 4 | (x >> 4 & 0x0F0F0F0Fu);
  x = (x & 0x33333333u) << 2 | (x >> 2 & 0x33333333u);
  return (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
}

// acc += a * b, of signs: `plane` 0 to QC_PLANES - 1, each once. Where there are several, bit j of a's
// bytes, worth 2^j, meets a bit of b worth 2^(7 - j): b's bytes are reversed, and all sums are 128-fold.
QC_DEVICE void qc_mma_b1_plane(int *acc, const unsigned *a, const unsigned *b, int plane) {
#if QC_ARCH >= 1000
  unsigned m = 0x01010101u << plane, k = 0x01010101u << (7 - plane);
  qc_ptx_mma_m16n8k32_u8u8(acc, a[0] & m, a[1] & m, a[2] & m, a[3] & m, b[0] & k, b[1] & k);
#elif QC_ARCH >= 900
  qc_ptx_mma_m16n8k256_b1_and(acc, a[0], a[1], a[2], a[3], b[0], b[1]);
#elif QC_ARCH >= 800
  qc_ptx_mma_m16n8k256_b1_xor(acc, a[0], a[1], a[2], a[3], b[0], b[1]);
#else
  qc_ptx_mma_m8n8k128_b1_xor(acc, a[0], b[0]);
  qc_ptx_mma_m8n8k128_b1_xor(acc, a[2], b[1]);
  qc_ptx_mma_m8n8k128_b1_xor(acc + 2, a[1], b[0]);
  qc_ptx_mma_m8n8k128_b1_xor(acc + 2, a[3], b[1]);
#endif
}

// A warp's step over 8 words: `m` fragments of rows times `n` of columns; acc[(i * n + j) * 4 + ...].
QC_DEVICE void qc_mma_b1(int *acc, const unsigned *a, const unsigned *b, int m, int n) {
#if QC_PLANES > 1
  unsigned reversed[16];
#pragma unroll
  for (int j = 0; j < 2 * n; ++j) reversed[j] = qc_reversed_bits_of_bytes(b[j]);
  b = reversed;
#endif
#pragma unroll
  for (int plane = 0; plane < QC_PLANES; ++plane) {
#pragma unroll
    for (int i = 0; i < m; ++i) {
#pragma unroll
      for (int j = 0; j < n; ++j) qc_mma_b1_plane(acc + (i * n + j) * 4, a + i * 4, b + j * 2, plane);
    }
  }
}

// Bits that differ, of a sum of `qc_mma_b1` and the ones of its row and its column.
QC_DEVICE int qc_differing(int acc, int row_ones, int column_ones) {
#if QC_B1_XOR
  return acc;
#else
  return row_ones + column_ones - 2 * (acc >> (QC_PLANES > 1 ? 7 : 0));
#endif
}

// Add the ones of four words in shared memory.
QC_DEVICE void qc_count(int *ones, const void *shared) {
#if !QC_B1_XOR
  qc_words4 x = *(const qc_words4 *)shared;
  ones[0] += __popc(x.x) + __popc(x.y) + __popc(x.z) + __popc(x.w);
#endif
}

// Store the ones of a row, summed over the neighbouring lanes, a power of two, that share it.
QC_DEVICE void qc_store_count(int *shared, int ones, int lanes) {
#if !QC_B1_XOR
#pragma unroll
  for (int apart = 1; apart < lanes; apart *= 2) ones += __shfl_xor_sync(0xFFFFFFFFu, ones, apart);
  *shared = ones;
#endif
}

#if QC_ARCH >= 800
#define QC_MMA_BYTES(acc, a, b, types) \
  qc_ptx_mma_m16n8k32_##types(acc, (a)[0], (a)[1], (a)[2], (a)[3], (b)[0], (b)[1])
#else
#define QC_MMA_BYTES(acc, a, b, types) \
  qc_ptx_mma_m8n8k16_##types(acc, (a)[0], (b)[0]); \
  qc_ptx_mma_m8n8k16_##types(acc, (a)[2], (b)[1]); \
  qc_ptx_mma_m8n8k16_##types((acc) + 2, (a)[1], (b)[0]); \
  qc_ptx_mma_m8n8k16_##types((acc) + 2, (a)[3], (b)[1])
#endif

// The same of signed bytes, and of unsigned ones times signed ones.
QC_DEVICE void qc_mma_s8(int *acc, const unsigned *a, const unsigned *b, int m, int n) {
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
      QC_MMA_BYTES(acc + (i * n + j) * 4, a + i * 4, b + j * 2, s8s8);
    }
  }
}

QC_DEVICE void qc_mma_u8(int *acc, const unsigned *a, const unsigned *b, int m, int n) {
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
      QC_MMA_BYTES(acc + (i * n + j) * 4, a + i * 4, b + j * 2, u8s8);
    }
  }
}

QC_DEVICE void qc_ldmatrix_x4(unsigned *r, const void *row) { qc_ptx_ldmatrix_x4(r, row); }

// --- counts of bits -------------------------------------------------------------------------------

// once ? ~twice : low, bit by bit: the carries of low + v + w, where once = low ^ v, twice = once ^ w.
// Spelled out, a compiler merges it with what gave its arguments, into more instructions.
QC_DEVICE int qc_carry(int once, int twice, int low) {
#ifdef QC_EMULATED
  return (once & ~twice) | (~once & low);
#else
  int carry;
  asm("lop3.b32 %0, %1, %2, %3, 0x3A;" : "=r"(carry) : "r"(once), "r"(twice), "r"(low));
  return carry;
#endif
}

// --- memory -----------------------------------------------------------------------------------------

// Neighbouring words at once: from and to aligned places.
QC_DEVICE void qc_move_4(void *to, const void *from) { *(unsigned *)to = *(const unsigned *)from; }
QC_DEVICE void qc_move_8(void *to, const void *from) { *(qc_words2 *)to = *(const qc_words2 *)from; }
QC_DEVICE void qc_move_16(void *to, const void *from) { *(qc_words4 *)to = *(const qc_words4 *)from; }

// The bits of four neighbouring lanes together.
QC_DEVICE unsigned qc_or_of_4(unsigned x) {
  x |= __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x | __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

// Copies to shared memory, in groups that are waited for in their order.

#if QC_ARCH >= 800
QC_DEVICE void qc_copy_4(void *shared, const void *global) { qc_ptx_cp_async_4(shared, global); }
QC_DEVICE void qc_copy_8(void *shared, const void *global) { qc_ptx_cp_async_8(shared, global); }
QC_DEVICE void qc_copy_16(void *shared, const void *global) { qc_ptx_cp_async_16(shared, global); }
QC_DEVICE void qc_copy_commit() { qc_ptx_cp_async_commit(); }
QC_DEVICE void qc_copy_wait_0() { qc_ptx_cp_async_wait_0(); }
QC_DEVICE void qc_copy_wait_1() { qc_ptx_cp_async_wait_1(); }
QC_DEVICE void qc_copy_wait_2() { qc_ptx_cp_async_wait_2(); }
#else
QC_DEVICE void qc_copy_4(void *shared, const void *global) { qc_move_4(shared, global); }
QC_DEVICE void qc_copy_8(void *shared, const void *global) { qc_move_8(shared, global); }
QC_DEVICE void qc_copy_16(void *shared, const void *global) { qc_move_16(shared, global); }
QC_DEVICE void qc_copy_commit() {}
QC_DEVICE void qc_copy_wait_0() {}
QC_DEVICE void qc_copy_wait_1() {}
QC_DEVICE void qc_copy_wait_2() {}
#endif

// From one of two places.
QC_DEVICE void qc_copy_4_if(void *shared, bool inside, const void *global, const void *other) {
  qc_copy_4(shared, inside ? global : other);
}
QC_DEVICE void qc_copy_8_if(void *shared, bool inside, const void *global, const void *other) {
  qc_copy_8(shared, inside ? global : other);
}
QC_DEVICE void qc_copy_16_if(void *shared, bool inside, const void *global, const void *other) {
  qc_copy_16(shared, inside ? global : other);
}

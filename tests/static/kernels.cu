// Loops of every kind, for tests of what is read from machine code.
#if __CUDA_ARCH__ >= 800
#define BOTH_BITS(d, a, b)                                                                  \
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "                 \
               "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"                         \
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define BOTH_BITS(d, a, b)                                                                  \
  asm volatile("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc "                  \
               "{%0,%1},{%2},{%3},{%0,%1};" : "+r"(d[0]), "+r"(d[1]) : "r"(a[0]), "r"(b[0]))
#endif

extern "C" __global__ void words(const unsigned *a, const unsigned *b, int *c, int n) {
  int row = blockIdx.x * 128 + threadIdx.x, sum = 0;
  if (row >= n * 196) return;
  for (int k = 0; k < 144; ++k) sum += __popc(a[row * 144 + k] ^ b[k]);
  c[row] = sum;
}

extern "C" __global__ void taps(const unsigned *a, const unsigned *b, int *c, int n) {
  int row = blockIdx.x * 128 + threadIdx.x, sum = 0;
#pragma unroll 1
  for (int kh = 0; kh < 3; ++kh) {
    int y = row / 14 % 14 + kh - 1;
    if (y < 0 || y >= 14) continue;
#pragma unroll 1
    for (int kw = 0; kw < 3; ++kw) {
      int x = row % 14 + kw - 1;
      if (x < 0 || x >= 14) continue;
#pragma unroll 1
      for (int k = 0; k < 100; k += 4) sum += __popc(a[(y * 14 + x) * 100 + k] ^ b[(kh * 3 + kw) * 100 + k]);
    }
  }
  c[row] = sum;
}

extern "C" __global__ void halves(const int *a, int *c, int n) {
  __shared__ int s[256];
  s[threadIdx.x] = a[threadIdx.x + blockIdx.x * 256];
  __syncthreads();
#pragma unroll 1
  for (int d = 128; d > 0; d >>= 1) {
    if (threadIdx.x < d) s[threadIdx.x] += s[threadIdx.x + d];
    __syncthreads();
  }
  if (threadIdx.x == 0) c[blockIdx.x] = s[0];
}

extern "C" __global__ void strided(const float *a, float *c, int n) {
  float sum = 0;
  for (int i = threadIdx.x; i < 1000; i += 128) sum += a[i] / c[i];
  c[threadIdx.x] = sum;
}

extern "C" __global__ void samples(const float *a, float *c, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i];
  c[threadIdx.x] = sum;
}

extern "C" __global__ void loaded(const int *a, float *c, int n) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < a[0]; ++i) sum += c[i];
  c[threadIdx.x] = sum;
}

extern "C" __global__ void bits(const unsigned *a, const unsigned *b, int *c, int n) {
  int d[4] = {0, 0, 0, 0};
#pragma unroll 1
  for (int k = 0; k < 12; ++k) {
    unsigned x[4], y[2];
    for (int i = 0; i < 4; ++i) x[i] = a[(k * 4 + i) * 32 + threadIdx.x % 32];
    for (int i = 0; i < 2; ++i) y[i] = b[(k * 2 + i) * 32 + threadIdx.x % 32];
    BOTH_BITS(d, x, y);
  }
  for (int i = 0; i < 4; ++i) c[i * 32 + threadIdx.x] = d[i];
}

extern "C" __global__ void spilling(const int *a, int *c, int n) {
  int local[64];
  for (int i = 0; i < 64; ++i) local[i] = a[i];
#pragma unroll 1
  for (int k = 0; k < 10; ++k) local[a[k] & 63] += local[a[k + 1] & 63];
  c[threadIdx.x] = local[a[5] & 63];
}

extern "C" __global__ void unused(const int *a, const int *b, const int *c, int *d, int n) {
  d[threadIdx.x] = a[threadIdx.x] + n;
}

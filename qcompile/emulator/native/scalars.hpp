// Functions of one thread. Floats as IEEE 754 has them: no flush to zero, no approximation, no
// contraction (the compiler is told so). What is transcendental comes from the C library.
#pragma once

extern "C" {
float expf(float), exp2f(float), exp10f(float), expm1f(float), logf(float), log2f(float),
    log10f(float), log1pf(float);
float sinf(float), cosf(float), tanf(float), tanhf(float), sinhf(float), coshf(float), atanf(float),
    asinf(float), acosf(float);
float erff(float), powf(float, float), fmodf(float, float), atan2f(float, float), cbrtf(float),
    hypotf(float, float);
double exp(double), log(double), tanh(double), erf(double), pow(double, double);
}

static inline float fabsf(float x) { return __builtin_fabsf(x); }
static inline float floorf(float x) { return __builtin_floorf(x); }
static inline float ceilf(float x) { return __builtin_ceilf(x); }
static inline float truncf(float x) { return __builtin_truncf(x); }
static inline float roundf(float x) { return __builtin_roundf(x); }
static inline float rintf(float x) { return __builtin_rintf(x); }
static inline float nearbyintf(float x) { return __builtin_nearbyintf(x); }
static inline float sqrtf(float x) { return __builtin_sqrtf(x); }
static inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
static inline float copysignf(float x, float y) { return __builtin_copysignf(x, y); }
static inline double fabs(double x) { return __builtin_fabs(x); }
static inline double floor(double x) { return __builtin_floor(x); }
static inline double rint(double x) { return __builtin_rint(x); }
static inline double sqrt(double x) { return __builtin_sqrt(x); }

// A NaN gives way to a number, and -0 is less than +0.
static inline float fmaxf(float x, float y) {
  if (x == y) return __builtin_signbitf(x) ? y : x;
  return x > y || y != y ? x : y;
}
static inline float fminf(float x, float y) {
  if (x == y) return __builtin_signbitf(x) ? x : y;
  return x < y || y != y ? x : y;
}

static inline bool isnan(float x) { return x != x; }
static inline bool isnan(double x) { return x != x; }
static inline bool isinf(float x) { return __builtin_isinf(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline bool isfinite(float x) { return __builtin_isfinite(x); }

static inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
static inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }

// --- conversions --------------------------------------------------------------------------------
// To integers, a GPU saturates, and makes 0 of NaN.

static inline int __float2int_rz(float x) {
  if (!(x > -2147483648.0f)) return x != x ? 0 : -2147483647 - 1;
  return x < 2147483648.0f ? (int)x : 2147483647;
}
static inline unsigned __float2uint_rz(float x) {
  if (!(x > 0.0f)) return 0;
  return x < 4294967296.0f ? (unsigned)x : 4294967295u;
}
static inline int __float2int_rn(float x) { return __float2int_rz(__builtin_rintf(x)); }
static inline int __float2int_rd(float x) { return __float2int_rz(__builtin_floorf(x)); }
static inline int __float2int_ru(float x) { return __float2int_rz(__builtin_ceilf(x)); }
static inline unsigned __float2uint_rn(float x) { return __float2uint_rz(__builtin_rintf(x)); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }

template <class To, class From> static inline To qc_same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "as many bytes");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
static inline int __float_as_int(float x) { return qc_same_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return qc_same_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return qc_same_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return qc_same_bits<float>(x); }

// --- integers -----------------------------------------------------------------------------------

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
  return y;
}
static inline int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
static inline unsigned __umulhi(unsigned x, unsigned y) {
  return (unsigned)((unsigned long long)x * y >> 32);
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long both = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned choice = selector >> 4 * i & 15;
    unsigned byte = (unsigned)(both >> 8 * (choice & 7)) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;  // its sign, eight times
    result |= byte << 8 * i;
  }
  return result;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
  return (unsigned)((((unsigned long long)high << 32 | low) << (by & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (by & 31));
}

static inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += (signed char)(a >> i) * (signed char)(b >> i);
  return sum;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int i = 0; i < 32; i += 8) sum += (a >> i & 255) * (b >> i & 255);
  return sum;
}

#define QC_MIN_MAX(T)                                     \
  static inline T min(T x, T y) { return y < x ? y : x; } \
  static inline T max(T x, T y) { return x < y ? y : x; }
QC_MIN_MAX(int)
QC_MIN_MAX(unsigned)
QC_MIN_MAX(long)
QC_MIN_MAX(unsigned long)
QC_MIN_MAX(long long)
QC_MIN_MAX(unsigned long long)
#undef QC_MIN_MAX
static inline unsigned min(int x, unsigned y) { return min((unsigned)x, y); }
static inline unsigned min(unsigned x, int y) { return min(x, (unsigned)y); }
static inline unsigned max(int x, unsigned y) { return max((unsigned)x, y); }
static inline unsigned max(unsigned x, int y) { return max(x, (unsigned)y); }
static inline float min(float x, float y) { return fminf(x, y); }
static inline float max(float x, float y) { return fmaxf(x, y); }
static inline int abs(int x) { return x < 0 ? -x : x; }

// --- memory -------------------------------------------------------------------------------------

template <class T> static inline T __ldg(const T *from) { return *from; }

static inline int atomicAdd(int *at, int value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
static inline unsigned atomicAdd(unsigned *at, unsigned value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
static inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
static inline float atomicAdd(float *at, float value) {
  unsigned *bits = reinterpret_cast<unsigned *>(at), seen = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &seen, __float_as_uint(__uint_as_float(seen) + value),
                                      true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return __uint_as_float(seen);
}
#define QC_ATOMIC(name, T, next)                                                   \
  static inline T name(T *at, T value) {                                           \
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);                                \
    while (!__atomic_compare_exchange_n(at, &seen, (next), true, __ATOMIC_RELAXED, \
                                        __ATOMIC_RELAXED)) {                       \
    }                                                                              \
    return seen;                                                                   \
  }
QC_ATOMIC(atomicMax, int, max(seen, value))
QC_ATOMIC(atomicMax, unsigned, max(seen, value))
QC_ATOMIC(atomicMin, int, min(seen, value))
QC_ATOMIC(atomicMin, unsigned, min(seen, value))
QC_ATOMIC(atomicOr, unsigned, seen | value)
QC_ATOMIC(atomicAnd, unsigned, seen &value)
QC_ATOMIC(atomicXor, unsigned, seen ^ value)
QC_ATOMIC(atomicExch, int, value)
QC_ATOMIC(atomicExch, unsigned, value)
#undef QC_ATOMIC

static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// CUDA's vector types: as wide and as aligned as there, so that one load moves them.
#pragma once

#define QC_VECTORS(T, name)                                                            \
  struct name##1 { T x; };                                                             \
  struct __align__(2 * sizeof(T)) name##2 { T x, y; };                                 \
  struct name##3 { T x, y, z; };                                                       \
  struct __align__(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  static inline name##1 make_##name##1(T x) { return {x}; }                            \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                    \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }            \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

QC_VECTORS(signed char, char)
QC_VECTORS(unsigned char, uchar)
QC_VECTORS(short, short)
QC_VECTORS(unsigned short, ushort)
QC_VECTORS(int, int)
QC_VECTORS(unsigned int, uint)
QC_VECTORS(long long, longlong)
QC_VECTORS(unsigned long long, ulonglong)
QC_VECTORS(float, float)
QC_VECTORS(double, double)
#undef QC_VECTORS

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

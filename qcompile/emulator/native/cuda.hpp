// CUDA C for g++: what a kernel may name. Included in front of the source, with QC_EMULATED defined
// as __CUDA_ARCH__ is on the GPU that is emulated (800 for sm_80).
#pragma once
#include "abi.hpp"

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned long size_t;

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

namespace qc_emulator {
// The driver fills it in before any kernel runs.
extern "C" __attribute__((visibility("default"))) Image qc_emulator_image;
static inline const Services &services() { return *qc_emulator_image.services; }
}  // namespace qc_emulator

#define threadIdx (qc_emulator::this_thread()->index)
#define blockIdx (qc_emulator::this_thread()->block->index)
#define blockDim (qc_emulator::this_thread()->block->size)
#define gridDim (qc_emulator::this_thread()->block->grid)
constexpr int warpSize = 32;

#include "vectors.hpp"
#include "scalars.hpp"
#include "warps.hpp"
#include "ptx.hpp"
#include "image.hpp"
#ifdef QC_CHECKED
#include "checks.hpp"
#endif

// The device and its context.
#pragma once
#include "state.hpp"

namespace qc_emulator {

// What an emulated GPU says of itself: what all from sm_75 on have, with the fewest of each.
inline int device_attribute(CUdevice_attribute attribute) {
  const int architecture = static_cast<int>(state().settings.architecture);
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return MOST_THREADS;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return SHARED_MEMORY;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return WARP;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return 65536;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1000000;  // kHz
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return static_cast<int>(cores());
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: return 0;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE: return 0;
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS: return 1;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 1000000;  // kHz
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 128;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 4 << 20;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 1024;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 1;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: return 1;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return architecture / 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return architecture % 10;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return 64 << 10;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY: return 0;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return SHARED_MEMORY;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return 1;
    default:
      throw Refusal{CUDA_ERROR_INVALID_VALUE, format("attribute %d is not emulated", attribute)};
  }
}

// What goes with the context that is released for the last time.
inline void destroy_context() {
  Driver &own = state();
  own.memory.free_all();
  own.functions.take_all();
  for (const CUmodule module : own.modules.take_all()) unload_module(module);
  for (const CUstream stream : own.streams.take_all()) delete stream;
  for (const CUevent event : own.events.take_all()) delete event;
}

template <class Work> CUresult initialised(Work work) {
  return answer([&] {
    const Guard guard(state().mutex);
    require_initialised();
    work();
  });
}

// See that a handle is null or the primary context.
inline void require_known(CUcontext context) {
  const bool known = !context || context == &state().context;
  require(known, CUDA_ERROR_INVALID_CONTEXT,
          format("%p is no context", static_cast<void *>(context)));
}

}  // namespace qc_emulator

QC_API CUresult cuInit(unsigned flags) {
  using namespace qc_emulator;
  return answer([&] {
    require(flags == 0, CUDA_ERROR_INVALID_VALUE, "cuInit takes 0");
    const Guard guard(state().mutex);
    state().initialised = true;
  });
}

QC_API CUresult cuDriverGetVersion(int *version) {
  using namespace qc_emulator;
  return answer([&] {
    require_pointer(version);
    *version = 13000;
  });
}

QC_API CUresult cuDeviceGetCount(int *count) {
  using namespace qc_emulator;
  return initialised([&] {
    require_pointer(count);
    *count = 1;
  });
}

QC_API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  using namespace qc_emulator;
  return initialised([&] {
    require_pointer(device);
    require_device(ordinal);
    *device = ordinal;
  });
}

QC_API CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  using namespace qc_emulator;
  return initialised([&] {
    require_pointer(name);
    require(length > 0, CUDA_ERROR_INVALID_VALUE, "a name of no length");
    require_device(device);
    std::snprintf(name, static_cast<std::size_t>(length), "sm_%u, emulated on the CPU",
                  state().settings.architecture);
  });
}

QC_API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  using namespace qc_emulator;
  return initialised([&] {
    require_pointer(value);
    require_device(device);
    *value = device_attribute(attribute);
  });
}

QC_API CUresult cuDeviceTotalMem_v2(std::size_t *bytes, CUdevice device) {
  using namespace qc_emulator;
  return initialised([&] {
    require_pointer(bytes);
    require_device(device);
    *bytes = Memory::TOTAL;
  });
}

QC_API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  using namespace qc_emulator;
  return initialised([&] {
    require_pointer(context);
    require_device(device);
    state().retained++;
    *context = &state().context;
  });
}

QC_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  using namespace qc_emulator;
  return initialised([&] {
    require_device(device);
    require(state().retained > 0, CUDA_ERROR_INVALID_CONTEXT, "the context is not retained");
    if (--state().retained == 0) destroy_context();
  });
}

QC_API CUresult cuCtxSetCurrent(CUcontext context) {
  using namespace qc_emulator;
  return initialised([&] {
    require_known(context);
    std::vector<CUcontext> &stack = current_contexts();
    if (!stack.empty()) stack.pop_back();
    if (context) stack.push_back(context);
  });
}

QC_API CUresult cuCtxGetCurrent(CUcontext *context) {
  using namespace qc_emulator;
  return initialised([&] {
    require_pointer(context);
    *context = current_contexts().empty() ? nullptr : current_contexts().back();
  });
}

QC_API CUresult cuCtxPushCurrent_v2(CUcontext context) {
  using namespace qc_emulator;
  return initialised([&] {
    require_known(context);
    require(context != nullptr, CUDA_ERROR_INVALID_CONTEXT, "no context to push");
    current_contexts().push_back(context);
  });
}

QC_API CUresult cuCtxPopCurrent_v2(CUcontext *context) {
  using namespace qc_emulator;
  return initialised([&] {
    std::vector<CUcontext> &stack = current_contexts();
    require(!stack.empty(), CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread");
    if (context) *context = stack.back();
    stack.pop_back();
  });
}

QC_API CUresult cuCtxSynchronize(void) {
  return qc_emulator::in_context([] {});
}

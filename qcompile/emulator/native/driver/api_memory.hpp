// Memory. Everything is done when a call returns, so the order of streams is kept.
#pragma once
#include "state.hpp"

namespace qc_emulator {

// Copy, or fill, `bytes` at the GPU's addresses `to` and `from` (0: not the GPU's).
template <class Work>
CUresult moving(CUdeviceptr to, CUdeviceptr from, const void *host, std::size_t bytes,
                CUstream stream, Work work) {
  return in_context([&] {
    require_stream(stream);
    if (bytes == 0) return;
    require(to || from, CUDA_ERROR_INVALID_VALUE, "the address on the GPU is null");
    require((to && from) || host, CUDA_ERROR_INVALID_VALUE, "the address on the host is null");
    if (to) state().memory.check(to, bytes);
    if (from) state().memory.check(from, bytes);
    work();
  });
}

inline void *pointer(CUdeviceptr address) { return reinterpret_cast<void *>(address); }

inline CUresult to_device(CUdeviceptr to, const void *from, std::size_t bytes, CUstream stream) {
  return moving(to, 0, from, bytes, stream, [&] { std::memmove(pointer(to), from, bytes); });
}

inline CUresult to_host(void *to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return moving(0, from, to, bytes, stream, [&] { std::memmove(to, pointer(from), bytes); });
}

inline CUresult allocate(CUdeviceptr *address, std::size_t bytes, CUstream stream) {
  return in_context([&] {
    require_stream(stream);
    require_pointer(address);
    *address = state().memory.allocate(bytes);
  });
}

inline CUresult release(CUdeviceptr address, CUstream stream) {
  return in_context([&] {
    require_stream(stream);
    state().memory.free(address);
  });
}

}  // namespace qc_emulator

QC_API CUresult cuMemAlloc_v2(CUdeviceptr *address, std::size_t bytes) {
  return qc_emulator::allocate(address, bytes, nullptr);
}

QC_API CUresult cuMemFree_v2(CUdeviceptr address) { return qc_emulator::release(address, nullptr); }

QC_API CUresult cuMemAllocAsync(CUdeviceptr *address, std::size_t bytes, CUstream stream) {
  return qc_emulator::allocate(address, bytes, stream);
}

QC_API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  return qc_emulator::release(address, stream);
}

QC_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, std::size_t bytes) {
  return qc_emulator::to_device(to, from, bytes, nullptr);
}

QC_API CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, std::size_t bytes) {
  return qc_emulator::to_host(to, from, bytes, nullptr);
}

QC_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, std::size_t bytes,
                                     CUstream stream) {
  return qc_emulator::to_device(to, from, bytes, stream);
}

QC_API CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, std::size_t bytes,
                                     CUstream stream) {
  return qc_emulator::to_host(to, from, bytes, stream);
}

QC_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                                     CUstream stream) {
  using namespace qc_emulator;
  return moving(to, from, nullptr, bytes, stream,
                [&] { std::memmove(pointer(to), pointer(from), bytes); });
}

QC_API CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char value, std::size_t bytes,
                                CUstream stream) {
  using namespace qc_emulator;
  return moving(at, 0, &value, bytes, stream, [&] { std::memset(pointer(at), value, bytes); });
}

QC_API CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute,
                                      CUdeviceptr address) {
  using namespace qc_emulator;
  return in_context([&] {
    require_pointer(value);
    const auto [start, bytes] = state().memory.range(address);
    require(bytes > 0, CUDA_ERROR_INVALID_VALUE, format("0x%llx is not the GPU's memory", address));
    switch (attribute) {
      case CU_POINTER_ATTRIBUTE_CONTEXT: *static_cast<CUcontext *>(value) = &state().context; break;
      case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *static_cast<unsigned *>(value) = CU_MEMORYTYPE_DEVICE;
        break;
      case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *static_cast<CUdeviceptr *>(value) = address; break;
      case CU_POINTER_ATTRIBUTE_IS_MANAGED: *static_cast<unsigned *>(value) = 0; break;
      case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *static_cast<int *>(value) = DEVICE; break;
      case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: *static_cast<CUdeviceptr *>(value) = start; break;
      case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *static_cast<std::size_t *>(value) = bytes; break;
      case CU_POINTER_ATTRIBUTE_MAPPED: *static_cast<bool *>(value) = true; break;
      default:
        throw Refusal{CUDA_ERROR_INVALID_VALUE, format("attribute %d is not emulated", attribute)};
    }
  });
}

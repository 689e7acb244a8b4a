// How a call ends: its code, and a message for whoever asks.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <new>
#include <string>

#include "types.hpp"

namespace qc_emulator {

// What a call throws; it does not leave the library.
struct Refusal {
  CUresult code;
  std::string message;
};

__attribute__((format(printf, 1, 2))) inline std::string format(const char *text, ...) {
  char line[1024];
  va_list values;
  va_start(values, text);
  std::vsnprintf(line, sizeof line, text, values);
  va_end(values);
  return line;
}

inline void require(bool holds, CUresult code, const std::string &message) {
  if (!holds) throw Refusal{code, message};
}

inline thread_local std::string last_message;

// Run what a function of the API does, and turn what it throws into its result.
template <class Work> CUresult answer(Work work) {
  try {
    work();
    return CUDA_SUCCESS;
  } catch (const Refusal &refusal) {
    last_message = refusal.message;
    return refusal.code;
  } catch (const std::bad_alloc &) {
    last_message = "the machine has no memory left";
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
}

struct ErrorText {
  CUresult code;
  const char *name, *text;
};

inline const ErrorText *error_text(CUresult code) {
#define QC_ERROR(name, text) \
  {                          \
    name, #name, text        \
  }
  static const ErrorText texts[] = {
      QC_ERROR(CUDA_SUCCESS, "no error"),
      QC_ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
      QC_ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
      QC_ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
      QC_ERROR(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
      QC_ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
      QC_ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
      QC_ERROR(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
      QC_ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
      QC_ERROR(CUDA_ERROR_NO_BINARY_FOR_GPU,
               "no kernel image is available for execution on the device"),
      QC_ERROR(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
      QC_ERROR(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object initialization failed"),
      QC_ERROR(CUDA_ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"),
      QC_ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
      QC_ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
      QC_ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
      QC_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
      QC_ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
      QC_ERROR(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
      QC_ERROR(CUDA_ERROR_ASSERT, "device-side assert triggered"),
      QC_ERROR(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
      QC_ERROR(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
      QC_ERROR(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
      QC_ERROR(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
      QC_ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
  };
#undef QC_ERROR
  for (const ErrorText &entry : texts) {
    if (entry.code == code) return &entry;
  }
  return nullptr;
}

}  // namespace qc_emulator

// A CUDA driver whose GPU is the CPU: the functions of NVIDIA's driver API that a program needs,
// for images that `qcompile.emulator.image` made. One translation unit: it builds in seconds.
#include "driver/api_device.hpp"
#include "driver/api_memory.hpp"
#include "driver/api_module.hpp"
#include "driver/api_stream.hpp"

QC_API CUresult cuGetErrorName(CUresult code, const char **text) {
  using namespace qc_emulator;
  return answer([&] {
    require_pointer(text);
    const ErrorText *const entry = error_text(code);
    *text = entry ? entry->name : nullptr;
    require(entry != nullptr, CUDA_ERROR_INVALID_VALUE, format("there is no error %d", code));
  });
}

QC_API CUresult cuGetErrorString(CUresult code, const char **text) {
  using namespace qc_emulator;
  return answer([&] {
    require_pointer(text);
    const ErrorText *const entry = error_text(code);
    *text = entry ? entry->text : nullptr;
    require(entry != nullptr, CUDA_ERROR_INVALID_VALUE, format("there is no error %d", code));
  });
}

// --- what NVIDIA's driver has not ---------------------------------------------------------------

// What was wrong with the call of this thread that failed last; valid until the next one fails.
QC_API const char *qc_emulator_message() { return qc_emulator::last_message.c_str(); }

// How kernels run from now on: in which order (see `Order`), on how many threads of the machine (0:
// all, up to 8); and which GPU the device says it is (80 for sm_80, 0: as before). It runs images
// for all of them.
QC_API CUresult qc_emulator_set(int order, int threads, int architecture) {
  using namespace qc_emulator;
  return answer([&] {
    require(0 <= order && order < static_cast<int>(ORDERS), CUDA_ERROR_INVALID_VALUE,
            format("order %d", order));
    require(0 <= threads && threads <= 1024, CUDA_ERROR_INVALID_VALUE,
            format("%d threads", threads));
    require(architecture == 0 || (75 <= architecture && architecture < 1000),
            CUDA_ERROR_INVALID_VALUE, format("sm_%d is not emulated", architecture));
    const Guard guard(state().mutex);
    Settings &settings = state().settings;
    settings.order = static_cast<unsigned>(order);
    settings.workers = static_cast<unsigned>(threads);
    if (architecture) settings.architecture = static_cast<unsigned>(architecture);
  });
}

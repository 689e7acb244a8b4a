// The state of the driver: one device, its primary context, and the handles that were given out.
#pragma once
#include <chrono>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launch.hpp"
#include "memory.hpp"
#include "modules.hpp"

struct CUctx_st {};

struct CUstream_st {};

struct CUevent_st {
  bool timed, recorded;
  std::chrono::steady_clock::time_point time;
};

namespace qc_emulator {

constexpr CUdevice DEVICE = 0;

// Handles that were given out and not yet taken back. Another one is refused and not followed.
template <class Handle> class Handles {
 public:
  Handle add(Handle handle) {
    live_.insert(handle);
    return handle;
  }
  void check(Handle handle, const char *what) const {
    require(live_.count(handle) == 1, CUDA_ERROR_INVALID_HANDLE,
            format("%p is no %s", (void *)handle, what));
  }
  Handle remove(Handle handle, const char *what) {
    check(handle, what);
    live_.erase(handle);
    return handle;
  }
  std::set<Handle> take_all() { return std::exchange(live_, {}); }

 private:
  std::set<Handle> live_;
};

struct Settings {
  unsigned order = 0;
  unsigned workers = 0;  // threads of the machine, 0: all
  unsigned architecture = 80;
};

struct Driver {
  std::recursive_mutex mutex;  // over all but `memory`, which has its own
  bool initialised = false;
  unsigned retained = 0;  // how often the primary context is
  Settings settings;
  CUctx_st context;
  Memory memory;
  Handles<CUmodule> modules;
  Handles<CUfunction> functions;  // of these modules
  Handles<CUstream> streams;
  Handles<CUevent> events;
};

inline Driver &state() {
  static auto *const own = new Driver;  // lives on while the process ends
  return *own;
}

// The contexts that this thread made current, the last one is.
inline std::vector<CUcontext> &current_contexts() {
  static thread_local std::vector<CUcontext> stack;
  return stack;
}

using Guard = std::lock_guard<std::recursive_mutex>;

inline void require_initialised() {
  require(state().initialised, CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
}

inline void require_context() {
  require_initialised();
  const std::vector<CUcontext> &stack = current_contexts();
  require(!stack.empty() && stack.back(), CUDA_ERROR_INVALID_CONTEXT,
          "no context is current in this thread");
  require(state().retained > 0, CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context was released");
}

inline void require_pointer(const void *pointer) {
  require(pointer != nullptr, CUDA_ERROR_INVALID_VALUE, "a pointer for a result is null");
}

inline void require_device(CUdevice device) {
  require(device == DEVICE, CUDA_ERROR_INVALID_DEVICE,
          format("there is no device %d, only 0", device));
}

// The default streams, of the process and of the thread, are handles too: 0, 1 and 2.
inline void require_stream(CUstream stream) {
  if (reinterpret_cast<std::uintptr_t>(stream) > 2) state().streams.check(stream, "stream");
}

// Like `answer`, one call at a time, where a context is current.
template <class Work> CUresult in_context(Work work) {
  return answer([&] {
    const Guard guard(state().mutex);
    require_context();
    work();
  });
}

}  // namespace qc_emulator

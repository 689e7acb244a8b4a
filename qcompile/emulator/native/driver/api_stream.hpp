// Streams and events. Work is done when it is asked for, so there is nothing to wait for.
#pragma once
#include "state.hpp"

QC_API CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  using namespace qc_emulator;
  return in_context([&] {
    require_pointer(stream);
    const bool known = flags == CU_STREAM_DEFAULT || flags == CU_STREAM_NON_BLOCKING;
    require(known, CUDA_ERROR_INVALID_VALUE, format("unknown flags of a stream, %u", flags));
    *stream = state().streams.add(new CUstream_st);
  });
}

QC_API CUresult cuStreamDestroy_v2(CUstream stream) {
  using namespace qc_emulator;
  return in_context([&] { delete state().streams.remove(stream, "stream"); });
}

QC_API CUresult cuStreamSynchronize(CUstream stream) {
  using namespace qc_emulator;
  return in_context([&] { require_stream(stream); });
}

QC_API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  using namespace qc_emulator;
  return in_context([&] {
    require_stream(stream);
    state().events.check(event, "event");
    require(flags <= 1, CUDA_ERROR_INVALID_VALUE, format("unknown flags of a wait, %u", flags));
  });
}

QC_API CUresult cuEventCreate(CUevent *event, unsigned flags) {
  using namespace qc_emulator;
  return in_context([&] {
    require_pointer(event);
    constexpr unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING;
    require((flags & ~known) == 0, CUDA_ERROR_INVALID_VALUE,
            format("unknown flags of an event, %u", flags));
    *event = state().events.add(new CUevent_st{!(flags & CU_EVENT_DISABLE_TIMING), false, {}});
  });
}

QC_API CUresult cuEventDestroy_v2(CUevent event) {
  using namespace qc_emulator;
  return in_context([&] { delete state().events.remove(event, "event"); });
}

QC_API CUresult cuEventRecord(CUevent event, CUstream stream) {
  using namespace qc_emulator;
  return in_context([&] {
    state().events.check(event, "event");
    require_stream(stream);
    event->recorded = true;
    event->time = std::chrono::steady_clock::now();
  });
}

QC_API CUresult cuEventSynchronize(CUevent event) {
  using namespace qc_emulator;
  return in_context([&] { state().events.check(event, "event"); });
}

QC_API CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
  using namespace qc_emulator;
  return in_context([&] {
    require_pointer(milliseconds);
    state().events.check(start, "event");
    state().events.check(end, "event");
    const bool timed = start->timed && end->timed && start->recorded && end->recorded;
    require(timed, CUDA_ERROR_INVALID_HANDLE, "an event was not recorded, or without its time");
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  });
}

QC_API CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}

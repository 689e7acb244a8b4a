// What a kernel calls: each function is called by a lane, on its own stack. A failure leaves that
// stack as it is, and nothing on it is destroyed.
#pragma once
#include "runner.hpp"

namespace qc_emulator {

inline void Runner::barrier(int line) {
  Lane &lane = here();
  lane.line = line;
  lane.runner->suspend(lane, State::AT_BARRIER);
}

inline void Runner::warp(Operation kind, unsigned mask, Operands *operands) {
  Lane &lane = here();
  lane.operation = kind;
  lane.mask = mask;
  lane.operands = operands;
  if (!(mask >> lane.number % WARP & 1)) {
    const std::string what =
        format("%s of lanes 0x%08x, and this is none of them", operation(kind).name, mask);
    lane.runner->fail(lane, CUDA_ERROR_LAUNCH_FAILED, what);
  }
  lane.runner->suspend(lane, State::AT_WARP);
}

inline void Runner::copy(void *to, const void *from, unsigned bytes) {
  Lane &lane = here();
  Runner &runner = *lane.runner;
  const auto address = [](const void *pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer);
  };
  const std::uintptr_t shared = address(runner.block_.shared),
                       end = shared + runner.launch_->kernel->shared;
  if (address(to) < shared || address(to) + bytes > end) {
    const std::string place = runner.shared_place(address(to));
    runner.fail(lane, CUDA_ERROR_ILLEGAL_ADDRESS,
                "cp.async to " + (place.empty() ? "no shared memory" : place));
  }
  if (address(to) % bytes || address(from) % bytes) {
    runner.fail(lane, CUDA_ERROR_MISALIGNED_ADDRESS,
                format("cp.async of %u bytes is misaligned", bytes));
  }
  if (runner.launch_->order & EARLY_COPIES) {
    std::memcpy(to, from, bytes);
  } else {
    lane.copies.add(to, from, bytes);
  }
}

inline void Runner::commit() { here().copies.commit(); }

inline void Runner::wait(unsigned in_flight) { here().copies.wait(in_flight); }

inline void Runner::fail_here(int code, const char *what) {
  Lane &lane = here();
  lane.runner->fail(lane, static_cast<CUresult>(code), what);
}

inline const Services Runner::services = {barrier, warp, copy, commit, wait, fail_here};

}  // namespace qc_emulator

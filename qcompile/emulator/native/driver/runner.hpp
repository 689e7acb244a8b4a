// One block at a time: its threads are fibers that take turns on one thread of the machine.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "errors.hpp"
#include "lane.hpp"
#include "operations.hpp"
#include "stacks.hpp"

namespace qc_emulator {

class Runner {
 public:
  Runner();
  ~Runner() { munmap(arena_, arena_bytes()); }
  Runner(const Runner &) = delete;
  Runner &operator=(const Runner &) = delete;

  // Run a block; what goes wrong in it, or CUDA_SUCCESS.
  Failure run(const Launch &launch, Index index);

  // The lane that this thread of the machine runs now, or null. What a fault belongs to.
  static thread_local Lane *current;

  // End a lane's block, from the lane itself.
  [[noreturn]] void fail(Lane &lane, CUresult code, const std::string &what,
                         std::uintptr_t address = 0);

  // Where an address is in the block's shared memory, or beside it; "" if it is elsewhere.
  std::string shared_place(std::uintptr_t address) const;

  const Stacks &stacks() const { return stacks_; }
  static const Services services;

 private:
  // Room for shared memory and the gaps in it; the bytes after it that are looked at; and so far on
  // both sides nothing may be touched.
  static constexpr std::size_t ARENA = 256 << 10, CANARY = 256, EDGE = 64 << 10;
  static constexpr std::size_t arena_bytes() { return ARENA + 2 * EDGE; }

  static Lane &here() { return *static_cast<Lane *>(this_thread()->lane); }
  [[noreturn]] static void enter();
  void suspend(Lane &lane, State state) {
    lane.state = state;
    qc_emulator_switch(&lane.place, scheduler_);
  }
  void start(Lane &lane);
  void resume(Lane &lane);
  void run_warp(unsigned first, unsigned last);
  bool operate(unsigned first, unsigned last);
  bool complete(const Lane &lane, unsigned first, unsigned last) const;
  void operate_together(Lane &lane, unsigned first, unsigned last);
  bool release_barrier();
  void check_shared();
  void check_untouched(std::size_t from, std::size_t bytes, const char *where);
  void note(CUresult code, const Lane *lane, const std::string &what);
  std::string missing(const Lane &lane, unsigned first, unsigned last) const;

  static void barrier(int line);
  static void warp(Operation kind, unsigned mask, Operands *operands);
  static void copy(void *to, const void *from, unsigned bytes);
  static void commit();
  static void wait(unsigned in_flight);
  static void fail_here(int code, const char *what);

  Stacks stacks_;
  char *arena_;
  Block block_;
  const Launch *launch_ = nullptr;
  unsigned threads_ = 0;
  void *scheduler_ = nullptr;
  Failure failure_;
  std::vector<Lane> lanes_;
};

inline thread_local Lane *Runner::current = nullptr;

inline Runner::Runner() : lanes_(MOST_THREADS) {
  void *const memory = mmap(nullptr, arena_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  arena_ = static_cast<char *>(memory);
  block_.shared = arena_ + EDGE;
  if (mprotect(block_.shared, ARENA, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
  for (unsigned i = 0; i < MOST_THREADS; i++) {
    lanes_[i].runner = this;
    lanes_[i].number = i;
  }
}

inline Failure Runner::run(const Launch &launch, Index index) {
  launch_ = &launch;
  block_.index = index;
  block_.size = launch.size;
  block_.grid = launch.grid;
  threads_ = launch.size.x * launch.size.y * launch.size.z;
  failure_ = {};
  stacks_.reset();
  std::memset(block_.shared, UNDEFINED & 255, launch.kernel->shared + CANARY);
  for (unsigned i = 0; i < threads_; i++) lanes_[i].state = State::FRESH;
  const unsigned warps = (threads_ + WARP - 1) / WARP;
  do {
    for (unsigned i = 0; i < warps && !failure_.code; i++) {
      const unsigned first = (launch.order & REVERSED ? warps - 1 - i : i) * WARP;
      run_warp(first, std::min(first + WARP, threads_));
    }
  } while (!failure_.code && release_barrier());
  if (!failure_.code) check_shared();
  return std::move(failure_);
}

inline void Runner::check_shared() {
  const Kernel &kernel = *launch_->kernel;
  check_untouched(kernel.shared, CANARY, "");
  for (unsigned i = 0; i < kernel.gap_count; i++)
    check_untouched(kernel.gaps[i], GAP, ", between arrays");
}

inline void Runner::check_untouched(std::size_t from, std::size_t bytes, const char *where) {
  const char *const start = block_.shared + from;
  const auto written = [](char byte) {
    return static_cast<unsigned char>(byte) != (UNDEFINED & 255);
  };
  const char *const found = std::find_if(start, start + bytes, written);
  if (found == start + bytes) return;
  note(CUDA_ERROR_ILLEGAL_ADDRESS, nullptr,
       "writes " + shared_place(reinterpret_cast<std::uintptr_t>(found)) + where);
}

inline std::string Runner::shared_place(std::uintptr_t address) const {
  const auto offset =
      static_cast<std::ptrdiff_t>(address - reinterpret_cast<std::uintptr_t>(block_.shared));
  constexpr auto before = static_cast<std::ptrdiff_t>(EDGE),
                 all = static_cast<std::ptrdiff_t>(arena_bytes());
  if (offset < -before || offset >= all - before) return "";
  return format("byte %td of %u of shared memory", offset, launch_->kernel->shared);
}

// --- one lane -----------------------------------------------------------------------------------

inline void Runner::enter() {
  Lane &lane = here();
  Runner &runner = *lane.runner;
  runner.launch_->kernel->run(runner.launch_->parameters);
  runner.suspend(lane, State::FINISHED);
  __builtin_unreachable();
}

inline void Runner::start(Lane &lane) {
  const Index size = launch_->size;
  const unsigned number = lane.number;
  lane.stack = stacks_.take();
  lane.copies.reset();
  const Index index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
  *stacks_.record(lane.stack) = {index, &block_, &lane};
  void **place = stacks_.top(lane.stack);
  *--place = nullptr;  // where `enter` would return to
  *--place = reinterpret_cast<void *>(enter);
  for (int preserved = 0; preserved < 6; preserved++) *--place = nullptr;
  lane.place = place;
}

inline void Runner::resume(Lane &lane) {
  if (lane.state == State::FRESH) start(lane);
  current = &lane;
  qc_emulator_switch(&scheduler_, lane.place);
  current = nullptr;
  if (lane.state == State::FINISHED) stacks_.give_back(lane.stack);
}

inline void Runner::note(CUresult code, const Lane *lane, const std::string &what) {
  const Index at = block_.index;
  std::string where =
      format("kernel %s, block (%u, %u, %u)", launch_->kernel->name, at.x, at.y, at.z);
  if (lane) where += format(", thread %u", lane->number);
  failure_ = {code, where + ": " + what};
}

inline void Runner::fail(Lane &lane, CUresult code, const std::string &what,
                         std::uintptr_t address) {
  note(code, &lane, what);
  failure_.address = address;
  suspend(lane, State::FINISHED);
  __builtin_unreachable();
}

// --- a warp -------------------------------------------------------------------------------------

inline void Runner::run_warp(unsigned first, unsigned last) {
  do {
    for (unsigned i = first; i < last; i++) {
      Lane &lane = lanes_[launch_->order & REVERSED ? first + last - 1 - i : i];
      if (lane.state == State::FRESH || lane.state == State::READY) resume(lane);
      if (failure_.code) return;
    }
  } while (operate(first, last));
}

// Let all groups of lanes operate that are complete; whether there was one.
inline bool Runner::operate(unsigned first, unsigned last) {
  const Lane *waiting = nullptr;
  bool any = false;
  for (unsigned i = first; i < last && !failure_.code; i++) {
    Lane &lane = lanes_[i];
    if (lane.state != State::AT_WARP) continue;
    if (complete(lane, first, last)) {
      operate_together(lane, first, last);
      any = true;
    } else {
      waiting = &lane;
    }
  }
  if (waiting && !any && !failure_.code) {
    note(CUDA_ERROR_LAUNCH_FAILED, waiting, missing(*waiting, first, last));
  }
  return any && !failure_.code;
}

// Whether a lane that `lane` waits for is not there. Lanes that have ended are not waited for, but
// by instructions that want all of them.
static inline bool absent(const Lane &lane, const Lane *other) {
  const bool all = lane.operation >= LDMATRIX_X2;
  if (!other || other->state == State::FINISHED) return all;
  return other->state != State::AT_WARP || other->operation != lane.operation ||
         other->mask != lane.mask;
}

inline bool Runner::complete(const Lane &lane, unsigned first, unsigned last) const {
  for (unsigned i = 0; i < WARP; i++) {
    const Lane *const other = first + i < last ? &lanes_[first + i] : nullptr;
    if (lane.mask >> i & 1 && absent(lane, other)) return false;
  }
  return true;
}

inline std::string Runner::missing(const Lane &lane, unsigned first, unsigned last) const {
  unsigned i = 0;
  const auto other = [&] { return first + i < last ? &lanes_[first + i] : nullptr; };
  while (!(lane.mask >> i & 1 && absent(lane, other()))) i++;
  const std::string who = format("%s of lanes 0x%08x is divergent: lane %u ",
                                 operation(lane.operation).name, lane.mask, i);
  if (!other()) return who + "is not in the block";
  if (other()->state == State::FINISHED) return who + "has ended";
  if (other()->state == State::AT_BARRIER) return who + "is at a barrier";
  if (other()->operation == lane.operation) return who + "names other lanes";
  return who + "is at " + operation(other()->operation).name;
}

inline void Runner::operate_together(Lane &lane, unsigned first, unsigned last) {
  Warp warp = {{}, block_.shared, launch_->kernel->shared};
  for (unsigned i = first; i < last; i++) {
    Lane &other = lanes_[i];
    if (!(lane.mask >> (i - first) & 1) || other.state != State::AT_WARP) continue;
    warp.lanes[i - first] = other.operands;
    other.state = State::READY;
  }
  const OperationInfo &info = operation(lane.operation);
  if (const char *const wrong = info.run(warp)) {
    note(CUDA_ERROR_LAUNCH_FAILED, &lane, format("%s: %s", info.name, wrong));
  }
}

// --- the block ----------------------------------------------------------------------------------

// All lanes have ended or are at a barrier: let them go on, if there are any.
inline bool Runner::release_barrier() {
  const Lane *waiting = nullptr, *other = nullptr;
  for (unsigned i = 0; i < threads_; i++) {
    const Lane &lane = lanes_[i];
    if (lane.state == State::AT_BARRIER && !waiting) waiting = &lane;
  }
  if (!waiting) return false;
  for (unsigned i = 0; i < threads_ && !other; i++) {
    const Lane &lane = lanes_[i];
    if (lane.state != State::AT_BARRIER || lane.line != waiting->line) other = &lane;
  }
  if (other) {
    const bool ended = other->state == State::FINISHED;
    const std::string where = ended ? "has ended" : format("is at that of line %d", other->line);
    note(CUDA_ERROR_LAUNCH_FAILED, waiting,
         format("the barrier of line %d is divergent: thread %u %s", waiting->line, other->number,
                where.c_str()));
    return false;
  }
  for (unsigned i = 0; i < threads_; i++) lanes_[i].state = State::READY;
  return true;
}

}  // namespace qc_emulator

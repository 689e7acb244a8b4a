// The blocks of a launch, spread over the threads of the machine.
#pragma once
#include <sched.h>
#include <xmmintrin.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "faults.hpp"

namespace qc_emulator {

// Runners that wait for work: their stacks are mapped once.
class RunnerPool {
 public:
  std::unique_ptr<Runner> take() {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (idle_.empty()) return std::make_unique<Runner>();
    std::unique_ptr<Runner> runner = std::move(idle_.back());
    idle_.pop_back();
    return runner;
  }
  void give_back(std::unique_ptr<Runner> runner) {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (idle_.size() < KEPT) idle_.push_back(std::move(runner));
  }
  static RunnerPool &get() {
    static auto *const pool = new RunnerPool;  // lives on while the process ends
    return *pool;
  }

 private:
  static constexpr std::size_t KEPT = 16;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Runner>> idle_;
};

class Grid {
 public:
  Grid(const Launch &launch, unsigned workers) : launch_(launch) {
    const Index grid = launch.grid;
    blocks_ = static_cast<unsigned long>(grid.x) * grid.y * grid.z;
    workers_ = static_cast<unsigned>(std::min<unsigned long>(workers, blocks_));
  }

  // Run all blocks; what went wrong first, or CUDA_SUCCESS.
  Failure run() {
    const Faults faults;
    std::vector<std::thread> others;
    try {
      for (unsigned i = 1; i < workers_; i++) others.emplace_back([this] { work(); });
    } catch (const std::system_error &) {
      // The machine gives no more threads: those that there are do the work.
    }
    work();
    for (std::thread &other : others) other.join();
    return failure_;
  }

 private:
  // SSE's state: no exceptions, to nearest, denormals kept.
  static constexpr unsigned IEEE = 0x1F80;

  void work() {
    try {
      work_on(RunnerPool::get().take());
    } catch (const std::bad_alloc &) {
      fail({CUDA_ERROR_OUT_OF_MEMORY, "the machine has no memory left for a block's threads"});
    }
  }

  void fail(Failure failure) {
    if (!failed_.exchange(true)) failure_ = std::move(failure);
  }

  void work_on(std::unique_ptr<Runner> runner) {
    const SignalStack stack;
    const unsigned before = _mm_getcsr();
    _mm_setcsr(IEEE);
    for (unsigned long i; !failed_ && (i = next_++) < blocks_;) {
      Failure failure = runner->run(launch_, place(launch_.order & REVERSED ? blocks_ - 1 - i : i));
      if (failure.code) fail(std::move(failure));
    }
    _mm_setcsr(before);
    RunnerPool::get().give_back(std::move(runner));
  }

  Index place(unsigned long i) const {
    const Index grid = launch_.grid;
    return {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
            static_cast<unsigned>(i / grid.x / grid.y)};
  }

  const Launch &launch_;
  unsigned long blocks_;
  unsigned workers_;
  std::atomic<unsigned long> next_{0};
  std::atomic<bool> failed_{false};
  Failure failure_;
};

// How many threads of the machine this process may use.
inline unsigned cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) ? 1 : static_cast<unsigned>(CPU_COUNT(&set));
}

}  // namespace qc_emulator

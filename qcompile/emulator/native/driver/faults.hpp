// A kernel that touches what it may not, or divides by zero, ends its launch and not the process.
#pragma once
#include <signal.h>
#include <ucontext.h>

#include <cstddef>
#include <mutex>

#include "runner.hpp"

namespace qc_emulator {

// What a fault handler may do is little: it notes what happened, and the lane goes on in `landed`.
struct Fault {
  int signal;
  std::uintptr_t address;
  bool write;
};

class Faults {
 public:
  // While one of these lives, faults of lanes are caught, in all threads of the process.
  Faults() {
    const std::lock_guard<std::mutex> guard(mutex());
    if (users()++ == 0) exchange(true);
  }
  ~Faults() {
    const std::lock_guard<std::mutex> guard(mutex());
    if (--users() == 0) exchange(false);
  }
  Faults(const Faults &) = delete;
  Faults &operator=(const Faults &) = delete;

 private:
  static constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
  static constexpr int COUNT = 4;

  static std::mutex &mutex() {
    static auto *const own = new std::mutex;
    return *own;
  }
  static int &users() {
    static int count = 0;
    return count;
  }
  static struct sigaction &before(int i) {
    static struct sigaction actions[COUNT];
    return actions[i];
  }
  static Fault &fault() {
    static thread_local Fault own;
    return own;
  }

  static void exchange(bool install) {
    struct sigaction own = {};
    own.sa_sigaction = handle;
    own.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&own.sa_mask);
    for (int i = 0; i < COUNT; i++) {
      if (install) {
        sigaction(SIGNALS[i], &own, &before(i));
      } else {
        sigaction(SIGNALS[i], &before(i), nullptr);
      }
    }
  }

  static void handle(int signal, siginfo_t *info, void *context) {
    Lane *const lane = Runner::current;
    if (!lane) {
      // Not a lane's: as if this handler were not there, the instruction faults once more.
      for (int i = 0; i < COUNT; i++) {
        if (SIGNALS[i] == signal) sigaction(signal, &before(i), nullptr);
      }
      return;
    }
    auto &registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    constexpr greg_t WRITE = 2;  // of a page fault's error code
    fault() = {signal, reinterpret_cast<std::uintptr_t>(info->si_addr), (registers[REG_ERR] & WRITE) != 0};
    // As if the lane had called it: 8 bytes below a multiple of 16.
    registers[REG_RSP] = reinterpret_cast<greg_t>(lane->runner->stacks().top(lane->stack) - 1);
    registers[REG_RIP] = reinterpret_cast<greg_t>(landed);
  }

  [[noreturn]] static void landed() {
    Lane &lane = *Runner::current;
    const Fault &what = fault();
    CUresult code = CUDA_ERROR_ILLEGAL_ADDRESS;
    std::string text = format("%s address 0x%zx", what.write ? "writes" : "reads", what.address);
    if (what.signal == SIGFPE) {
      code = CUDA_ERROR_LAUNCH_FAILED;
      text = "divides an integer by zero, or the smallest by -1";
    } else if (what.signal == SIGILL) {
      code = CUDA_ERROR_ILLEGAL_INSTRUCTION;
      text = "traps";
    } else if (lane.runner->stacks().overflown(lane.stack, what.address)) {
      code = CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
      text = format("needs more than %lu bytes of stack", STACK - 2 * Stacks::page());
    }
    lane.runner->fail(lane, code, text);
  }
};

constexpr int Faults::SIGNALS[];

// A stack for the handler, as a lane's may be what overflowed.
class SignalStack {
 public:
  SignalStack() : memory_(BYTES) {
    stack_t own = {};
    own.ss_sp = memory_.data();
    own.ss_size = BYTES;
    sigaltstack(&own, &before_);
  }
  ~SignalStack() {
    if (before_.ss_flags & SS_DISABLE) before_.ss_size = 0;
    sigaltstack(&before_, nullptr);
  }
  SignalStack(const SignalStack &) = delete;
  SignalStack &operator=(const SignalStack &) = delete;

 private:
  static constexpr std::size_t BYTES = 64 << 10;
  std::vector<char> memory_;
  stack_t before_ = {};
};

}  // namespace qc_emulator

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
  bool misaligned;  // or no address at all: the processor says neither where nor what
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
    const bool write = (registers[REG_ERR] & WRITE) != 0,
               misaligned = signal == SIGSEGV && info->si_code == SI_KERNEL;
    fault() = {signal, reinterpret_cast<std::uintptr_t>(info->si_addr), write, misaligned};
    // As if the lane had called it: 8 bytes below a multiple of 16.
    registers[REG_RSP] = reinterpret_cast<greg_t>(lane->runner->stacks().top(lane->stack) - 1);
    registers[REG_RIP] = reinterpret_cast<greg_t>(landed);
  }

  [[noreturn]] static void landed() {
    Lane &lane = *Runner::current;
    Runner &runner = *lane.runner;
    const Fault what = fault();
    if (what.signal == SIGFPE) {
      runner.fail(lane, CUDA_ERROR_LAUNCH_FAILED,
                  "divides an integer by zero, or the smallest by -1");
    }
    if (what.signal == SIGILL) runner.fail(lane, CUDA_ERROR_ILLEGAL_INSTRUCTION, "traps");
    if (what.misaligned)
      runner.fail(lane, CUDA_ERROR_MISALIGNED_ADDRESS, "uses a misaligned address");
    if (runner.stacks().overflown(lane.stack, what.address)) {
      const std::size_t bytes = STACK - 2 * Stacks::page();
      runner.fail(lane, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
                  format("needs more than %zu bytes of stack", bytes));
    }
    const std::string verb = what.write ? "writes " : "reads ",
                      shared = runner.shared_place(what.address);
    if (!shared.empty()) runner.fail(lane, CUDA_ERROR_ILLEGAL_ADDRESS, verb + shared);
    runner.fail(lane, CUDA_ERROR_ILLEGAL_ADDRESS, verb + format("address 0x%zx", what.address),
                what.address);
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

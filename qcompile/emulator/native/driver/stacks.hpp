// Stacks for the threads of a block, and the switch from one to another.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <vector>

#include "../abi.hpp"

// Goes on where `to` was left, and leaves the place of the caller in `from`. Only what a call
// preserves is kept (System V ABI of x86-64): to the compiler it is a call.
extern "C" void qc_emulator_switch(void **from, void *to);
asm(".text\n"
    ".globl qc_emulator_switch\n.hidden qc_emulator_switch\n.type qc_emulator_switch, @function\n"
    "qc_emulator_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  pop %rcx\n  jmp *%rcx\n"  // thrice as fast as a ret, whose target the processor mispredicts
    ".size qc_emulator_switch, .-qc_emulator_switch\n");

namespace qc_emulator {

constexpr unsigned MOST_THREADS = 1024;  // of a block

// Each stack: a page with the thread's record, a page that nothing may touch, and what is used,
// from the top down. The memory is there when it is touched.
class Stacks {
 public:
  Stacks() {
    const std::size_t bytes = (MOST_THREADS + 1) * STACK;
    memory_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    first_ = (reinterpret_cast<std::uintptr_t>(memory_) + STACK - 1) & -STACK;
  }
  ~Stacks() { munmap(memory_, (MOST_THREADS + 1) * STACK); }
  Stacks(const Stacks &) = delete;
  Stacks &operator=(const Stacks &) = delete;

  // All are free again, whatever was on them.
  void reset() {
    used_ = 0;
    free_.clear();
  }

  unsigned take() {
    if (!free_.empty()) {
      const unsigned stack = free_.back();
      free_.pop_back();
      return stack;
    }
    if (used_ == guarded_) guard(guarded_++);
    return used_++;
  }

  void give_back(unsigned stack) { free_.push_back(stack); }

  Thread *record(unsigned stack) const {
    return reinterpret_cast<Thread *>(first_ + stack * STACK);
  }

  // One past the highest word; a multiple of 16.
  void **top(unsigned stack) const {
    return reinterpret_cast<void **>(first_ + (stack + 1) * STACK);
  }

  // Whether an address is on the page that ends a stack.
  bool overflown(unsigned stack, std::uintptr_t address) const {
    const std::uintptr_t guard = first_ + stack * STACK + page();
    return guard <= address && address < guard + page();
  }

  static std::size_t page() {
    static const std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
  }

 private:
  void guard(unsigned stack) {
    void *const at = reinterpret_cast<void *>(first_ + stack * STACK + page());
    if (mprotect(at, page(), PROT_NONE)) throw std::bad_alloc();
  }

  void *memory_;
  std::uintptr_t first_;
  unsigned used_ = 0, guarded_ = 0;
  std::vector<unsigned> free_;
};

}  // namespace qc_emulator

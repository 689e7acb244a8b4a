// A thread of a block, and what is launched.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../abi.hpp"
#include "types.hpp"

namespace qc_emulator {

// What orders are asked for; all are orders that a GPU may take.
enum Order : unsigned {
  REVERSED = 1,      // threads of a warp, warps of a block, blocks of a grid
  EARLY_COPIES = 2,  // cp.async copies at once; else only where the thread waits for it
  ORDERS = 4
};

// What is launched: the same for all its blocks.
struct Launch {
  const Kernel *kernel;
  void **parameters;
  Index size, grid;
  unsigned order;
};

struct Failure {
  CUresult code = CUDA_SUCCESS;
  std::string message;
  std::uintptr_t address = 0;  // that was touched and is not shared memory
};

// The asynchronous copies of a thread that are in flight, in groups.
class Copies {
 public:
  void reset() {
    copies_.clear();
    groups_.clear();
  }
  void add(void *to, const void *from, std::size_t bytes) { copies_.push_back({to, from, bytes}); }
  void commit() { groups_.push_back(copies_.size()); }

  // Copy, but for the newest `in_flight` groups and what is of no group.
  void wait(std::size_t in_flight) {
    if (groups_.size() <= in_flight) return;
    const std::size_t groups = groups_.size() - in_flight, end = groups_[groups - 1];
    for (std::size_t i = 0; i < end; i++) {
      std::memcpy(copies_[i].to, copies_[i].from, copies_[i].bytes);
    }
    copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(end));
    groups_.erase(groups_.begin(), groups_.begin() + static_cast<std::ptrdiff_t>(groups));
    for (std::size_t &group : groups_) group -= end;
  }

 private:
  struct Copy {
    void *to;
    const void *from;
    std::size_t bytes;
  };
  std::vector<Copy> copies_;         // oldest first
  std::vector<std::size_t> groups_;  // how many of them each ends at
};

class Runner;

enum class State : unsigned char { FRESH, READY, AT_BARRIER, AT_WARP, FINISHED };

// A thread of the block that a runner runs.
struct Lane {
  Runner *runner;
  unsigned number;
  State state;
  unsigned stack;
  void *place;          // where it goes on
  int line;             // of the barrier it is at
  Operation operation;  // that it waits for, of which lanes, with what
  unsigned mask;
  Operands *operands;
  Copies copies;
};

}  // namespace qc_emulator

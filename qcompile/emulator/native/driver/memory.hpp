// The GPU's memory: what is allocated, and what a kernel did beside it.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "errors.hpp"
#include "stacks.hpp"

namespace qc_emulator {

constexpr unsigned char FRESH = 0xCD, CANARY = 0xA5;

// Each allocation has pages of its own, between others that nothing may touch, and ends as near to
// the latter as its alignment allows. What is left on its pages, on both sides, holds a pattern.
class Memory {
 public:
  static constexpr std::size_t TOTAL = std::size_t{16} << 30;  // bytes
  static constexpr std::size_t ALIGNMENT = 256;

  CUdeviceptr allocate(std::size_t bytes) {
    require(bytes > 0, CUDA_ERROR_INVALID_VALUE, "an allocation of 0 bytes");
    const std::lock_guard<std::mutex> guard(mutex_);
    require(bytes <= TOTAL - used_, CUDA_ERROR_OUT_OF_MEMORY,
            format("%zu bytes are asked for, %zu are free", bytes, TOTAL - used_));
    const std::size_t page = Stacks::page(), rounded = (bytes + ALIGNMENT - 1) & -ALIGNMENT;
    const std::size_t pages = (rounded + page - 1) / page * page;
    void *const mapped =
        mmap(nullptr, pages + 2 * EDGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    auto *const start = static_cast<unsigned char *>(mapped) + EDGE;
    if (mprotect(start, pages, PROT_READ | PROT_WRITE)) {
      munmap(mapped, pages + 2 * EDGE);
      throw std::bad_alloc();
    }
    Allocation own = {bytes, start, start + pages - rounded, start + pages};
    std::fill(own.start, own.data, CANARY);
    std::memset(own.data, FRESH, bytes);
    std::fill(own.data + bytes, own.end, CANARY);
    used_ += bytes;
    const auto address = reinterpret_cast<CUdeviceptr>(own.data);
    allocations_[address] = own;
    return address;
  }

  void free(CUdeviceptr address) {
    if (address == 0) return;
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto found = allocations_.find(address);
    require(found != allocations_.end(), CUDA_ERROR_INVALID_VALUE,
            format("0x%llx is no allocation: it was freed before, or never made", address));
    const std::string damage = damaged(found->second);
    release(found->second);
    allocations_.erase(found);
    require(damage.empty(), CUDA_ERROR_ILLEGAL_ADDRESS, damage);
  }

  void free_all() {
    const std::lock_guard<std::mutex> guard(mutex_);
    for (auto &entry : allocations_) release(entry.second);
    allocations_.clear();
  }

  // See that a range lies in one allocation.
  void check(CUdeviceptr address, std::size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    const Allocation *const own = find(address);
    require(own != nullptr, CUDA_ERROR_INVALID_VALUE,
            format("0x%llx is not the GPU's memory", address));
    const std::size_t left = own->bytes - (address - reinterpret_cast<CUdeviceptr>(own->data));
    require(bytes <= left, CUDA_ERROR_INVALID_VALUE,
            format("%zu bytes from 0x%llx on, where the allocation has %zu", bytes, address, left));
  }

  // The allocation that an address is in, or right behind: its address and bytes; else 0 and 0.
  std::pair<CUdeviceptr, std::size_t> range(CUdeviceptr address) {
    const std::lock_guard<std::mutex> guard(mutex_);
    const Allocation *const own = find(address);
    if (!own) return {0, 0};
    return {reinterpret_cast<CUdeviceptr>(own->data), own->bytes};
  }

  // Where an address is that is in no allocation, for a message.
  std::string place(CUdeviceptr address) {
    const std::lock_guard<std::mutex> guard(mutex_);
    for (const auto &[data, own] : allocations_) {
      if (data - EDGE <= address && address < data) {
        return format("%llu bytes before an allocation of %zu", data - address, own.bytes);
      }
      const CUdeviceptr end = data + own.bytes;
      if (data <= address && address < end + EDGE) {
        return format("%lld bytes behind the end of an allocation of %zu", address - end,
                      own.bytes);
      }
    }
    return "no allocation is near it";
  }

  // What was written beside an allocation since this was called last, or "".
  std::string damage() {
    const std::lock_guard<std::mutex> guard(mutex_);
    std::string all;
    for (auto &entry : allocations_) {
      if (all.empty()) all = damaged(entry.second);
    }
    return all;
  }

 private:
  struct Allocation {
    std::size_t bytes;
    unsigned char *start, *data, *end;  // of its pages, of what is allocated, of its pages
  };

  static constexpr std::size_t EDGE = 256 << 10;  // bytes that nothing may touch, on each side

  const Allocation *find(CUdeviceptr address) const {
    auto after = allocations_.upper_bound(address);
    if (after == allocations_.begin()) return nullptr;
    const auto &[data, own] = *--after;
    return address - data <= own.bytes ? &own : nullptr;
  }

  // What was written on its pages outside of it; that is repaired, so that it is told once.
  static std::string damaged(Allocation &own) {
    const auto written = [](unsigned char byte) { return byte != CANARY; };
    unsigned char *const behind = own.data + own.bytes;
    const unsigned char *at = std::find_if(own.start, own.data, written);
    if (at == own.data) at = std::find_if(behind, own.end, written);
    if (at == own.end) return "";
    std::fill(own.start, own.data, CANARY);
    std::fill(behind, own.end, CANARY);
    return format("byte %td of an allocation of %zu was written (0x%zx)", at - own.data, own.bytes,
                  reinterpret_cast<std::size_t>(own.data));
  }

  void release(const Allocation &own) {
    used_ -= own.bytes;
    munmap(own.start - EDGE, static_cast<std::size_t>(own.end - own.start) + 2 * EDGE);
  }

  std::mutex mutex_;
  std::size_t used_ = 0;
  std::map<CUdeviceptr, Allocation> allocations_;
};

}  // namespace qc_emulator

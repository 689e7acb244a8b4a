// Barriers, and what the threads of a warp do together.
#pragma once

// The line tells two barriers apart: threads of a block that wait at different ones are an error.
#define __syncthreads() qc_emulator::services().barrier(__LINE__)

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
  qc_emulator::Operands operands = {};
  qc_emulator::services().warp(qc_emulator::SYNC_WARP, mask, &operands);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
  int votes;
  qc_emulator::Operands operands = {{predicate != 0}, nullptr, &votes};
  qc_emulator::services().warp(qc_emulator::BALLOT, mask, &operands);
  return (unsigned)votes;
}
static inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, !predicate) == 0;
}

namespace qc_emulator {

template <class T>
static inline T shuffle(Operation kind, unsigned mask, T value, int by, int width) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "what CUDA shuffles");
  unsigned words[sizeof(T) / 4];
  __builtin_memcpy(words, &value, sizeof(T));
  for (unsigned &word : words) {
    int result;
    Operands operands = {{word, (unsigned)by, (unsigned)width}, nullptr, &result};
    services().warp(kind, mask, &operands);
    word = (unsigned)result;
  }
  __builtin_memcpy(&value, words, sizeof(T));
  return value;
}

}  // namespace qc_emulator

template <class T> static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return qc_emulator::shuffle(qc_emulator::SHUFFLE, mask, value, from, width);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return qc_emulator::shuffle(qc_emulator::SHUFFLE_UP, mask, value, (int)by, width);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return qc_emulator::shuffle(qc_emulator::SHUFFLE_DOWN, mask, value, (int)by, width);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
  return qc_emulator::shuffle(qc_emulator::SHUFFLE_XOR, mask, value, by, width);
}

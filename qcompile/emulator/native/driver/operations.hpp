// What the threads of a warp do together, once all that take part have come.
#pragma once
#include <smmintrin.h>

#include <cstdint>
#include <cstring>

#include "../abi.hpp"

namespace qc_emulator {

constexpr unsigned WARP = 32;
constexpr unsigned UNDEFINED = 0xC5C5C5C5;  // what a register holds that nobody wrote

// The operands of each thread of the warp that takes part, null for the others.
struct Warp {
  Operands *lanes[WARP];
  const char *shared;  // of the block
  unsigned shared_bytes;
};

inline const char *ballot(const Warp &warp) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < WARP; lane++) {
    if (warp.lanes[lane] && warp.lanes[lane]->in[0]) votes |= 1u << lane;
  }
  for (Operands *operands : warp.lanes) {
    if (operands) *operands->out = static_cast<int>(votes);
  }
  return nullptr;
}

// From which lane a lane reads; itself where the other is outside of its segment. As the PTX ISA
// has `shfl.sync`.
inline unsigned shuffle_source(Operation kind, unsigned lane, unsigned by, unsigned width) {
  const unsigned first = lane / width * width, last = first + width - 1;
  unsigned from = lane;
  by %= WARP;
  switch (kind) {
    case SHUFFLE: from = first + by % width; break;
    case SHUFFLE_UP: from = by > lane - first ? lane : lane - by; break;
    case SHUFFLE_DOWN: from = by > last - lane ? lane : lane + by; break;
    default: from = (lane ^ by) > last ? lane : lane ^ by; break;
  }
  return from;
}

template <Operation KIND> const char *shuffle(const Warp &warp) {
  for (unsigned lane = 0; lane < WARP; lane++) {
    Operands *const own = warp.lanes[lane];
    if (!own) continue;
    const unsigned width = own->in[2];
    if (width == 0 || width > WARP || (width & (width - 1)))
      return "the width is no power of 2 up to 32";
    const Operands *const other = warp.lanes[shuffle_source(KIND, lane, own->in[1], width)];
    *own->out = static_cast<int>(other ? other->in[0] : UNDEFINED);
  }
  return nullptr;
}

// Lane 8 i + r brings the address of row r of matrix i; lane l takes 4 bytes of row l / 4 of each.
template <unsigned MATRICES> const char *ldmatrix(const Warp &warp) {
  for (unsigned lane = 0; lane < 8 * MATRICES; lane++) {
    const auto *const row = static_cast<const char *>(warp.lanes[lane]->address);
    if (row < warp.shared || row + 16 > warp.shared + warp.shared_bytes) {
      return "a row is not in the kernel's shared memory";
    }
    if (reinterpret_cast<std::uintptr_t>(row) % 16)
      return "the address of a row is no multiple of 16";
  }
  for (unsigned lane = 0; lane < WARP; lane++) {
    for (unsigned matrix = 0; matrix < MATRICES; matrix++) {
      const auto *const row = static_cast<const char *>(warp.lanes[8 * matrix + lane / 4]->address);
      std::memcpy(warp.lanes[lane]->out + matrix, row + lane % 4 * 4, 4);
    }
  }
  return nullptr;
}

// Products of 8 bytes of a row and a column, as 64 elements or 8.
struct Differing {
  static unsigned dot(const std::uint32_t *a, const std::uint32_t *b) {
    return static_cast<unsigned>(__builtin_popcountll(word(a) ^ word(b)));
  }
  static std::uint64_t word(const std::uint32_t *from) {
    std::uint64_t both;
    std::memcpy(&both, from, sizeof both);
    return both;
  }
};
struct Common {
  static unsigned dot(const std::uint32_t *a, const std::uint32_t *b) {
    return static_cast<unsigned>(__builtin_popcountll(Differing::word(a) & Differing::word(b)));
  }
};
template <bool A_SIGNED, bool B_SIGNED> struct Bytes {
  static unsigned dot(const std::uint32_t *a, const std::uint32_t *b) {
    __m128i sums = _mm_madd_epi16(wide<A_SIGNED>(a), wide<B_SIGNED>(b));  // of two each
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0b01001110));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0b10110001));
    return static_cast<unsigned>(_mm_cvtsi128_si32(sums));
  }
  template <bool SIGNED> static __m128i wide(const std::uint32_t *from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
    return SIGNED ? _mm_cvtepi8_epi16(bytes) : _mm_cvtepu8_epi16(bytes);
  }
};

// d += a * b, a of ROWS x WORDS, b of WORDS x 8 words (of 32 elements, or 4), d of ROWS x 8; sums
// wrap.
//
// Register r of `a` in lane l is the word of row l / 4 (+ 8 for odd r, where there are 16 rows) in
// column l % 4 (+ 4 for the second half of them); of b alike, in column l / 4. Registers 2 i and
// 2 i + 1 of d are of row l / 4 + 8 i, columns l % 4 * 2 and the next.
template <unsigned ROWS, unsigned WORDS, class Element> const char *mma(const Warp &warp) {
  constexpr unsigned TILES = ROWS / 8, STEPS = WORDS / 4;
  std::uint32_t a[ROWS][WORDS], b[8][WORDS];
  for (unsigned lane = 0; lane < WARP; lane++) {
    const unsigned *const in = warp.lanes[lane]->in;
    for (unsigned step = 0; step < STEPS; step++) {
      for (unsigned tile = 0; tile < TILES; tile++) {
        a[lane / 4 + 8 * tile][lane % 4 + 4 * step] = in[TILES * step + tile];
      }
      b[lane / 4][lane % 4 + 4 * step] = in[4 + step];
    }
  }
  for (unsigned lane = 0; lane < WARP; lane++) {
    for (unsigned i = 0; i < 2 * TILES; i++) {
      const std::uint32_t *const row = a[lane / 4 + 8 * (i / 2)];
      const std::uint32_t *const column = b[lane % 4 * 2 + i % 2];
      unsigned sum = static_cast<unsigned>(warp.lanes[lane]->out[i]);
      for (unsigned word = 0; word < WORDS; word += 2)
        sum += Element::dot(row + word, column + word);
      warp.lanes[lane]->out[i] = static_cast<int>(sum);
    }
  }
  return nullptr;
}

struct OperationInfo {
  const char *name;
  const char *(*run)(const Warp &);  // what is wrong, or null
};

inline const OperationInfo &operation(Operation kind) {
  constexpr bool U8 = false, S8 = true;
  static const OperationInfo table[OPERATIONS] = {
      {"__syncwarp", [](const Warp &) -> const char * { return nullptr; }},
      {"__ballot_sync", ballot},
      {"__shfl_sync", shuffle<SHUFFLE>},
      {"__shfl_up_sync", shuffle<SHUFFLE_UP>},
      {"__shfl_down_sync", shuffle<SHUFFLE_DOWN>},
      {"__shfl_xor_sync", shuffle<SHUFFLE_XOR>},
      {"ldmatrix.x2", ldmatrix<2>},
      {"ldmatrix.x4", ldmatrix<4>},
      {"mma.m8n8k128.b1.xor", mma<8, 4, Differing>},
      {"mma.m16n8k256.b1.xor", mma<16, 8, Differing>},
      {"mma.m16n8k256.b1.and", mma<16, 8, Common>},
      {"mma.m8n8k16.s8.s8", mma<8, 4, Bytes<S8, S8>>},
      {"mma.m8n8k16.u8.s8", mma<8, 4, Bytes<U8, S8>>},
      {"mma.m16n8k32.s8.s8", mma<16, 8, Bytes<S8, S8>>},
      {"mma.m16n8k32.u8.s8", mma<16, 8, Bytes<U8, S8>>},
      {"mma.m16n8k32.u8.u8", mma<16, 8, Bytes<U8, U8>>},
  };
  return table[kind];
}

}  // namespace qc_emulator

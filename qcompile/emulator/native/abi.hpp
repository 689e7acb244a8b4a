// What a compiled image and the emulated driver know of each other. Neither a standard header nor a
// global name: kernels bring their own typedefs.
#pragma once

namespace qc_emulator {

struct Index {
  unsigned x, y, z;
};

// What all threads of a block see.
struct Block {
  Index index, size, grid;
  char *shared;  // its shared memory
};

// Each thread of a block runs on a stack of its own, which is STACK bytes long and lies at a
// multiple of that; its lowest bytes hold this record, so that the stack pointer leads to it.
struct Thread {
  Index index;
  const Block *block;
  void *lane;  // the driver's
};

constexpr unsigned long STACK = 128 << 10;
constexpr unsigned SHARED_MEMORY = 48 << 10;  // bytes a block may have, on every architecture
constexpr unsigned GAP = 64;                  // bytes between shared arrays, in a checked image

static inline const Thread *this_thread() {
  unsigned long stack_pointer;
  asm("mov %%rsp, %0" : "=r"(stack_pointer));
  return reinterpret_cast<const Thread *>(stack_pointer & -STACK);
}

// What the threads of a warp do together.
enum Operation : int {
  SYNC_WARP,
  BALLOT,
  SHUFFLE,
  SHUFFLE_UP,
  SHUFFLE_DOWN,
  SHUFFLE_XOR,
  LDMATRIX_X2,  // from here on, all 32 threads take part
  LDMATRIX_X4,
  MMA_M8N8K128_B1_XOR,
  MMA_M16N8K256_B1_XOR,
  MMA_M16N8K256_B1_AND,
  MMA_M8N8K16_S8S8,
  MMA_M8N8K16_U8S8,
  MMA_M16N8K32_S8S8,
  MMA_M16N8K32_U8S8,
  MMA_M16N8K32_U8U8,
  OPERATIONS
};

// What one thread brings to an operation, and where it takes the result.
struct Operands {
  unsigned in[6];  // registers, in the order of the PTX instruction
  const void *address;
  int *out;  // read as well, where an instruction accumulates
};

// What the driver does for a kernel. Each is called by a thread of a block.
struct Services {
  void (*barrier)(int line);
  void (*warp)(Operation, unsigned mask, Operands *);
  void (*copy)(void *shared, const void *global, unsigned bytes);  // cp.async
  void (*commit)();
  void (*wait)(unsigned groups_in_flight);
  void (*fail)(int code, const char *what);  // does not return
};

struct Parameter {
  unsigned bytes;
  bool pointer;
};

struct Kernel {
  const char *name;
  void (*run)(void **parameters);
  const Parameter *parameters;
  unsigned parameter_count;
  unsigned shared;        // bytes
  unsigned most_threads;  // of a block
  const unsigned *gaps;   // where in shared memory nothing may be written, GAP bytes each
  unsigned gap_count;
};

// The one symbol of an image, `qc_emulator_image`.
struct Image {
  const Services *services;  // the driver puts its own here
  const Kernel *kernels;
  unsigned kernel_count;
};

// In front of the image's library, as the driver takes it.
struct Header {
  char magic[8];
  unsigned version;       // of this file
  unsigned architecture;  // 80 for sm_80
  unsigned long bytes;    // of the library, which follows
};

constexpr char MAGIC[9] = "QCEMULAT";
constexpr unsigned VERSION = 1;

}  // namespace qc_emulator

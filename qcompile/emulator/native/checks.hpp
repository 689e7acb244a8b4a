// What g++ calls in a checked image (-fsanitize) where a kernel does what C++ leaves undefined: the
// launch ends. The structs are those of GCC's libubsan, which is not needed then.
#pragma once

extern "C" int snprintf(char *, size_t, const char *, ...);

namespace qc_emulator {

struct SourceLocation {
  const char *file;
  unsigned line, column;
};

struct TypeDescriptor {
  unsigned short kind, info;
  char name[1];  // in quotes; it goes on
};

struct Violation {
  SourceLocation at;
  const TypeDescriptor *type;
};

struct Misalignment : Violation {
  unsigned char log_alignment;
};

template <class... Values>
static void violated(const Violation *what, int code, const char *text, Values... values) {
  char line[512];
  const int length = snprintf(line, sizeof line, "%s:%u: ", what->at.file, what->at.line);
  snprintf(line + length, sizeof line - (size_t)length, text, values...);
  services().fail(code, line);
}

}  // namespace qc_emulator

extern "C" void __ubsan_handle_out_of_bounds(qc_emulator::Violation *what, unsigned long index) {
  const int code = 700;  // CUDA_ERROR_ILLEGAL_ADDRESS
  qc_emulator::violated(what, code, "index %ld of an array %s", (long)index, what->type->name);
}

extern "C" void __ubsan_handle_type_mismatch_v1(qc_emulator::Misalignment *what,
                                                unsigned long address) {
  const int code = 716;  // CUDA_ERROR_MISALIGNED_ADDRESS
  const unsigned alignment = 1u << what->log_alignment;
  qc_emulator::violated(what, code, "0x%lx is no address of %s: no multiple of %u", address,
                        what->type->name, alignment);
}

extern "C" void __ubsan_handle_shift_out_of_bounds(qc_emulator::Violation *what, unsigned long,
                                                   unsigned long by) {
  const int code = 719;  // CUDA_ERROR_LAUNCH_FAILED
  qc_emulator::violated(what, code, "a shift of %s by %ld bits", what->type->name, (long)by);
}

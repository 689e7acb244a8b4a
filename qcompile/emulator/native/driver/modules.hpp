// Compiled images in this process, and the kernels in them.
#pragma once
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "errors.hpp"
#include "services.hpp"

struct CUmod_st;

struct CUfunc_st {
  const qc_emulator::Kernel *kernel;
  CUmod_st *module;
};

// A loaded image.
struct CUmod_st {
  void *library;
  int file;
  unsigned architecture;
  std::vector<CUfunc_st> functions;
};

namespace qc_emulator {

// Read what may be anything, and lead anywhere: a header that is ours, or a refusal that names what
// it is.
inline Header checked_header(const void *image) {
  require(image != nullptr, CUDA_ERROR_INVALID_VALUE, "there is no image");
  Header header;
  if (std::memcmp(image, MAGIC, sizeof header.magic) != 0) {
    const bool elf = !std::memcmp(image, "\177ELF", 4),
               fatbin = !std::memcmp(image, "\x50\xED\x55\xBA", 4);
    require(!elf && !fatbin, CUDA_ERROR_NO_BINARY_FOR_GPU,
            "machine code for a GPU, and this is none");
    throw Refusal{CUDA_ERROR_INVALID_IMAGE, "this is no image"};
  }
  std::memcpy(&header, image, sizeof header);
  require(header.version == VERSION, CUDA_ERROR_INVALID_IMAGE,
          "an image of another version of the emulator");
  return header;
}

// A file in memory that holds the library of an image.
inline int file_of(const Header &header, const void *image) {
  const int file = memfd_create("qcompile-emulator", MFD_CLOEXEC);
  require(file >= 0, CUDA_ERROR_OPERATING_SYSTEM, "no file can be made in memory");
  const char *from = static_cast<const char *>(image) + sizeof header;
  for (std::size_t left = header.bytes; left > 0;) {
    const ssize_t written = write(file, from, left);
    if (written <= 0) {
      close(file);
      throw Refusal{CUDA_ERROR_OPERATING_SYSTEM, "an image cannot be written to memory"};
    }
    from += written;
    left -= static_cast<std::size_t>(written);
  }
  return file;
}

inline CUmodule load_module(const void *image) {
  const Header header = checked_header(image);
  // The file stays open with the module: the loader takes equal paths for one library.
  const int file = file_of(header, image);
  void *const library = dlopen(format("/proc/self/fd/%d", file).c_str(), RTLD_NOW | RTLD_LOCAL);
  auto *const table = library ? static_cast<Image *>(dlsym(library, "qc_emulator_image")) : nullptr;
  if (!table) {
    const char *const why = dlerror();
    const std::string message = why ? why : "it holds no kernels";
    if (library) dlclose(library);
    close(file);
    throw Refusal{CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, message};
  }
  table->services = &Runner::services;
  auto *const module = new CUmod_st{library, file, header.architecture, {}};
  for (unsigned i = 0; i < table->kernel_count; i++)
    module->functions.push_back({table->kernels + i, module});
  return module;
}

inline void unload_module(CUmodule module) {
  dlclose(module->library);
  close(module->file);
  delete module;
}

}  // namespace qc_emulator

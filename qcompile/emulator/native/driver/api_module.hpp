// Modules, their functions, and launches.
#pragma once
#include "state.hpp"

namespace qc_emulator {

constexpr unsigned MOST_WORKERS = 8;  // threads of the machine for a launch, if not told

inline void check_dimensions(const Kernel &kernel, Index grid, Index block) {
  const bool empty = !grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z;
  require(!empty, CUDA_ERROR_INVALID_VALUE, format("kernel %s: a launch of nothing", kernel.name));
  require(grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535, CUDA_ERROR_INVALID_VALUE,
          format("kernel %s: a grid of (%u, %u, %u) blocks", kernel.name, grid.x, grid.y, grid.z));
  const bool wide = block.x > 1024 || block.y > 1024 || block.z > 64;
  require(
      !wide && block.x * block.y * block.z <= MOST_THREADS, CUDA_ERROR_INVALID_VALUE,
      format("kernel %s: blocks of (%u, %u, %u) threads", kernel.name, block.x, block.y, block.z));
  require(block.x * block.y * block.z <= kernel.most_threads, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
          format("kernel %s: it is for %u threads a block", kernel.name, kernel.most_threads));
}

// See that all pointers lead to the GPU's memory, or nowhere.
inline void check_parameters(const Kernel &kernel, void **parameters) {
  require(parameters || !kernel.parameter_count, CUDA_ERROR_INVALID_VALUE,
          format("kernel %s: it takes %u parameters", kernel.name, kernel.parameter_count));
  for (unsigned i = 0; i < kernel.parameter_count; i++) {
    require(parameters[i] != nullptr, CUDA_ERROR_INVALID_VALUE,
            format("kernel %s: parameter %u is null", kernel.name, i));
    if (!kernel.parameters[i].pointer) continue;
    const CUdeviceptr address = *static_cast<const CUdeviceptr *>(parameters[i]);
    const bool known = address == 0 || state().memory.range(address).second > 0;
    require(known, CUDA_ERROR_ILLEGAL_ADDRESS,
            format("kernel %s: parameter %u, 0x%llx, is not the GPU's memory", kernel.name, i,
                   address));
  }
}

inline void run(const Launch &launch, unsigned workers) {
  Failure failure = Grid(launch, workers ? workers : std::min(cores(), MOST_WORKERS)).run();
  const std::string damage = state().memory.damage();
  if (!failure.code && !damage.empty()) {
    failure = {CUDA_ERROR_ILLEGAL_ADDRESS,
               format("kernel %s: %s", launch.kernel->name, damage.c_str())};
  }
  if (failure.address) failure.message += " (" + state().memory.place(failure.address) + ")";
  if (failure.code) {
    std::fprintf(stderr, "qcompile emulator: %s\n", failure.message.c_str());
    throw Refusal{failure.code, failure.message};
  }
}

}  // namespace qc_emulator

QC_API CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  using namespace qc_emulator;
  return in_context([&] {
    require_pointer(module);
    *module = load_module(image);
    state().modules.add(*module);
    for (CUfunc_st &function : (*module)->functions) state().functions.add(&function);
  });
}

QC_API CUresult cuModuleUnload(CUmodule module) {
  using namespace qc_emulator;
  return in_context([&] {
    state().modules.remove(module, "module");
    for (CUfunc_st &function : module->functions) state().functions.remove(&function, "function");
    unload_module(module);
  });
}

QC_API CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  using namespace qc_emulator;
  return in_context([&] {
    require_pointer(function);
    require(name != nullptr, CUDA_ERROR_INVALID_VALUE, "there is no name");
    state().modules.check(module, "module");
    for (CUfunc_st &candidate : module->functions) {
      if (std::strcmp(candidate.kernel->name, name) == 0) {
        *function = &candidate;
        return;
      }
    }
    throw Refusal{CUDA_ERROR_NOT_FOUND, format("the module has no kernel %s", name)};
  });
}

QC_API CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute,
                                   CUfunction function) {
  using namespace qc_emulator;
  return in_context([&] {
    require_pointer(value);
    state().functions.check(function, "function");
    const int architecture = static_cast<int>(function->module->architecture);
    switch (attribute) {
      case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = static_cast<int>(function->kernel->most_threads);
        break;
      case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = static_cast<int>(function->kernel->shared);
        break;
      case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: *value = 0; break;
      case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = 0; break;
      case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 32; break;
      case CU_FUNC_ATTRIBUTE_PTX_VERSION: *value = architecture; break;
      case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = architecture; break;
      default:
        throw Refusal{CUDA_ERROR_INVALID_VALUE, format("attribute %d is not emulated", attribute)};
    }
  });
}

QC_API CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                               unsigned grid_z, unsigned block_x, unsigned block_y,
                               unsigned block_z, unsigned shared, CUstream stream,
                               void **parameters, void **extra) {
  using namespace qc_emulator;
  const Index grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
  Settings settings;
  const CUresult refused = in_context([&] {
    state().functions.check(function, "function");
    require_stream(stream);
    require(!extra, CUDA_ERROR_NOT_SUPPORTED, "parameters in `extra` are not emulated");
    const Kernel &kernel = *function->kernel;
    check_dimensions(kernel, grid, block);
    const bool room =
        shared == 0 || (shared <= SHARED_MEMORY && shared + kernel.shared <= SHARED_MEMORY);
    require(room, CUDA_ERROR_INVALID_VALUE,
            format("kernel %s: %u bytes of shared memory beside its own %u", kernel.name, shared,
                   kernel.shared));
    check_parameters(kernel, parameters);
    settings = state().settings;
  });
  if (refused) return refused;
  // Other threads of the process launch at the same time.
  return answer(
      [&] { run({function->kernel, parameters, block, grid, settings.order}, settings.workers); });
}

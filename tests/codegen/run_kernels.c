/* Run the kernels of a library, in order, on tensors from a file: no TVM runtime is needed.
 *
 *   run_kernels LIBRARY IN OUT
 *
 * IN (int64 throughout, but for the data):  n, then n times: size, returned, data[size]
 *                                           n, then n times: storage, code, bits, rank, shape[rank]
 *                                           n, then n times: name[128], count, tensor[count]
 * OUT: the data of the storages that are returned, one after another.
 *
 * Each storage ends at a page that can be neither read nor written.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

typedef struct {
  void* sync_handle;
  int32_t num_task;
} Environment;
typedef int (*Lambda)(int task, Environment* environment, void* closure);

static void fail(const char* what, const char* detail) {
  fprintf(stderr, "run_kernels: %s: %s\n", what, detail);
  exit(1);
}

/* --- what kernels import -------------------------------------------------------------------- */

enum { TASKS = 3 }; /* as if there were so many threads; they run one after another */

static int launch(Lambda lambda, void* closure, int tasks) {
  Environment environment = {NULL, tasks ? tasks : TASKS};
  for (int i = 0; i < environment.num_task; ++i) {
    int failed = lambda(i, &environment, closure);
    if (failed) return failed;
  }
  return 0;
}

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) {
  fprintf(stderr, "run_kernels: %s: %s\n", kind, message);
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "run_kernels: %s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i] ? parts[i] : "", stderr);
  fputs("\n", stderr);
}

static void* allocate(int device, int id, uint64_t size, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}

static int release(int device, int id, void* memory) {
  (void)device, (void)id;
  free(memory);
  return 0;
}

/* The loader of a library sets these variables of it. */
static void set_slots(void* library) {
  const struct { const char* name; void* value; } slots[] = {
      {"__TVMBackendParallelLaunch", (void*)launch},
      {"__TVMBackendAllocWorkspace", (void*)allocate},
      {"__TVMBackendFreeWorkspace", (void*)release},
  };
  for (size_t i = 0; i < sizeof slots / sizeof *slots; ++i) {
    void** slot = dlsym(library, slots[i].name);
    if (slot) *slot = slots[i].value;
  }
}

/* --- the file ------------------------------------------------------------------------------- */

static FILE* input;

static void take(void* to, size_t size) {
  if (fread(to, 1, size, input) != size) fail("the input", "too short");
}

static int64_t number(void) {
  int64_t value;
  take(&value, sizeof value);
  return value;
}

static void* make(size_t count, size_t size) {
  void* memory = calloc(count ? count : 1, size);
  if (!memory) fail("memory", "none left");
  return memory;
}

typedef struct {
  int64_t size, returned;
  char* data;
} Storage;

static Storage storage(void) {
  Storage s = {.size = number()};
  s.returned = number();
  size_t page = sysconf(_SC_PAGESIZE), whole = (s.size + 63) / 64 * 64;
  size_t pages = (whole + page - 1) / page * page;
  char* memory = mmap(NULL, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + pages, page, PROT_NONE)) fail("memory", "no pages");
  s.data = memory + pages - whole;
  take(s.data, s.size);
  return s;
}

static DLTensor tensor(const Storage* storages) {
  DLTensor t = {.device = {kDLCPU, 0}};
  t.data = storages[number()].data;
  t.dtype.code = number(), t.dtype.bits = number(), t.dtype.lanes = 1;
  t.ndim = number();
  t.shape = make(2 * t.ndim, sizeof *t.shape);
  t.strides = t.shape + t.ndim;
  for (int i = 0; i < t.ndim; ++i) t.shape[i] = number();
  for (int i = t.ndim; i--;) t.strides[i] = i + 1 < t.ndim ? t.strides[i + 1] * t.shape[i + 1] : 1;
  return t;
}

static void call(void* library, DLTensor* tensors) {
  char name[128], symbol[160];
  take(name, sizeof name);
  snprintf(symbol, sizeof symbol, "__tvm_ffi_%.127s", name);
  TVMFFISafeCallType function = (TVMFFISafeCallType)dlsym(library, symbol);
  if (!function) fail("no such kernel", symbol);
  int64_t count = number();
  TVMFFIAny *arguments = make(count, sizeof *arguments), result = {.type_index = kTVMFFINone};
  for (int64_t i = 0; i < count; ++i) {
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_ptr = &tensors[number()];
  }
  if (function(NULL, arguments, count, &result)) fail("kernel failed", name);
  free(arguments);
}

int main(int argc, char** argv) {
  if (argc != 4) fail("usage", "run_kernels LIBRARY IN OUT");
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail("cannot load", dlerror());
  set_slots(library);
  input = fopen(argv[2], "rb");
  if (!input) fail("cannot read", argv[2]);

  int64_t stored = number();
  Storage* storages = make(stored, sizeof *storages);
  for (int64_t i = 0; i < stored; ++i) storages[i] = storage();
  int64_t count = number();
  DLTensor* tensors = make(count, sizeof *tensors);
  for (int64_t i = 0; i < count; ++i) tensors[i] = tensor(storages);
  for (int64_t calls = number(); calls--;) call(library, tensors);

  FILE* output = fopen(argv[3], "wb");
  if (!output) fail("cannot write", argv[3]);
  for (int64_t i = 0; i < stored; ++i) {
    if (storages[i].returned && fwrite(storages[i].data, 1, storages[i].size, output) != (size_t)storages[i].size)
      fail("cannot write", argv[3]);
  }
  return fclose(output) ? 1 : 0;
}

/* Run a library on tensors from a file: no TVM runtime is needed.
 *
 *   run_library LIBRARY IN OUT
 *
 * IN (int64 throughout, but for the data):  n, then n times: size, returned, data[size]
 *                                           n, then n times: storage, code, bits, rank, shape[rank]
 *                                           storages: of the workspace, of constants; threads
 * OUT: the data of the storages that are returned, one after another.
 *
 * Each storage ends at a page that can be neither read nor written.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

typedef struct {
  pthread_barrier_t* barrier;
  int32_t num_task;
} Environment;
typedef int (*Lambda)(int task, Environment* environment, void* closure);

static void fail(const char* what, const char* detail) {
  fprintf(stderr, "run_library: %s: %s\n", what, detail);
  exit(1);
}

/* --- what libraries import -------------------------------------------------------------------- */

static int threads = 1;

typedef struct {
  Lambda lambda;
  Environment* environment;
  void* closure;
  int task, failed;
} Task;

static void* run_task(void* argument) {
  Task* t = argument;
  t->failed = t->lambda(t->task, t->environment, t->closure);
  return NULL;
}

static int launch(Lambda lambda, void* closure, int tasks) {
  pthread_barrier_t barrier;
  Environment environment = {&barrier, tasks ? tasks : threads};
  int count = environment.num_task, failed = 0;
  pthread_t others[count];
  Task each[count];
  pthread_barrier_init(&barrier, NULL, count);
  for (int i = 0; i < count; ++i) {
    each[i] = (Task){lambda, &environment, closure, i, 0};
    if (pthread_create(&others[i], NULL, run_task, &each[i])) fail("threads", "none left");
  }
  for (int i = 0; i < count; ++i) pthread_join(others[i], NULL), failed |= each[i].failed;
  return failed;
}

static int barrier(int task, Environment* environment) {
  (void)task;
  pthread_barrier_wait(environment->barrier);
  return 0;
}

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) {
  fprintf(stderr, "run_library: %s: %s\n", kind, message);
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "run_library: %s: ", kind);
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
      {"__TVMBackendParallelBarrier", (void*)barrier},
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

int main(int argc, char** argv) {
  if (argc != 4) fail("usage", "run_library LIBRARY IN OUT");
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail("cannot load", dlerror());
  set_slots(library);
  TVMFFISafeCallType run = (TVMFFISafeCallType)dlsym(library, "__tvm_ffi_run");
  if (!run) fail("no function", "run");
  TVMFFISafeCallType set_constants = (TVMFFISafeCallType)dlsym(library, "__tvm_ffi_constants");
  if (!set_constants) fail("no function", "constants");
  input = fopen(argv[2], "rb");
  if (!input) fail("cannot read", argv[2]);

  int64_t stored = number();
  Storage* storages = make(stored, sizeof *storages);
  for (int64_t i = 0; i < stored; ++i) storages[i] = storage();
  int64_t count = number();
  DLTensor* tensors = make(count, sizeof *tensors);
  TVMFFIAny *arguments = make(count + 3, sizeof *arguments), result = {.type_index = kTVMFFINone};
  for (int64_t i = 0; i < count; ++i) {
    tensors[i] = tensor(storages);
    arguments[i].type_index = kTVMFFIDLTensorPtr;
    arguments[i].v_ptr = &tensors[i];
  }
  int64_t workspace = (int64_t)storages[number()].data;
  TVMFFIAny address = {.type_index = kTVMFFIInt};
  address.v_int64 = (int64_t)storages[number()].data;
  if (set_constants(NULL, &address, 1, &result)) fail("constants", "failed");
  threads = number();
  const int64_t numbers[] = {workspace, threads, -1};
  for (int i = 0; i < 3; ++i) {
    arguments[count + i].type_index = kTVMFFIInt;
    arguments[count + i].v_int64 = numbers[i];
  }
  if (run(NULL, arguments, count + 3, &result)) fail("run", "failed");

  FILE* output = fopen(argv[3], "wb");
  if (!output) fail("cannot write", argv[3]);
  for (int64_t i = 0; i < stored; ++i) {
    if (storages[i].returned && fwrite(storages[i].data, 1, storages[i].size, output) != (size_t)storages[i].size)
      fail("cannot write", argv[3]);
  }
  return fclose(output) ? 1 : 0;
}

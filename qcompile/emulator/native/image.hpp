// How an image says what kernels it holds: the table that is appended to the source uses these.
#pragma once

namespace qc_emulator {

// A kernel's shared arrays are the members of a struct at the start of the block's shared memory.
template <class Arrays> static inline Arrays &shared() {
#ifndef QC_CHECKED  // there, gaps between the arrays take room too
  static_assert(sizeof(Arrays) <= SHARED_MEMORY, "the kernel uses too much shared memory");
#endif
  return *reinterpret_cast<Arrays *>(this_thread()->block->shared);
}

template <unsigned... I> struct Numbers {};

template <class T> struct IsPointer {
  static constexpr bool value = false;
};
template <class T> struct IsPointer<T *> {
  static constexpr bool value = true;
};
template <class T> struct IsPointer<T *__restrict__> {
  static constexpr bool value = true;
};

template <class... A> struct Parameters {
  static constexpr unsigned count = sizeof...(A);
  static constexpr Parameter list[count + 1] = {{sizeof(A), IsPointer<A>::value}..., {0, false}};
  template <unsigned... I> static void call(void (*kernel)(A...), void **from, Numbers<I...>) {
    kernel(*static_cast<A *>(from[I])...);
  }
  static void call(void (*kernel)(A...), void **from) {
    call(kernel, from, Numbers<__integer_pack(sizeof...(A))...>());
  }
};
template <class... A> constexpr Parameter Parameters<A...>::list[];

template <class... A> static Parameters<A...> parameters_of(void (*)(A...));

}  // namespace qc_emulator

// `gaps` ends with one that is not counted, so that there is always one.
#define QC_KERNEL(symbol, shared, most_threads, gaps)                                         \
  {#symbol,                                                                                   \
   [](void **from) { decltype(qc_emulator::parameters_of(::symbol))::call(::symbol, from); }, \
   decltype(qc_emulator::parameters_of(::symbol))::list,                                      \
   decltype(qc_emulator::parameters_of(::symbol))::count,                                     \
   shared,                                                                                    \
   most_threads,                                                                              \
   gaps,                                                                                      \
   sizeof(gaps) / sizeof(unsigned) - 1}

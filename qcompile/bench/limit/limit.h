/* Reference loops: dot products of one tile of pixels and channels, all of it in the first cache.

   Every file limit_*.c lists kernels for one instruction set and includes this header last. It becomes
   a shared library; limits.py asks it for its kernels, has each checked against plain C, and runs
   them. A tile is ROWS pixels by `channels` outputs; a kernel computes int32 (or float) results and
   stores them, so that finishing a sum counts. Weights of int8 and float kernels repeat every
   PERIOD values of K, as those of a long K would not stay in the first cache. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum format { WORDS, NIBBLES, BYTES, FLOATS };
enum { PIXELS = 24, MAX_CHANNELS = 128, MAX_K = 4608, PERIOD = 96 };

typedef void (*tile_fn)(const void *weights, const void *pixels, void *out);

struct kernel {
    const char *method;
    enum format format;
    int k, rows, channels;
    tile_fn tile;
};

/* A kernel for each K; BODY(K, R, weights, pixels, out) is an inline function, R its rows. Those of
   DENSE_TILES have their rows built in. */
#define TILE(NAME, K, ...)                                                         \
    static void NAME##_##K(const void *w, const void *a, void *out) {              \
        __VA_ARGS__;                                                               \
    }
#define TILES(NAME, BODY, R)                                                       \
    TILE(NAME, 576, BODY(576, R, w, a, out))                                       \
    TILE(NAME, 1152, BODY(1152, R, w, a, out))                                     \
    TILE(NAME, 2304, BODY(2304, R, w, a, out))                                     \
    TILE(NAME, 4608, BODY(4608, R, w, a, out))
#define DENSE_TILES(NAME, BODY)                                                    \
    TILE(NAME, 576, BODY(576, w, a, out))                                          \
    TILE(NAME, 1152, BODY(1152, w, a, out))                                        \
    TILE(NAME, 2304, BODY(2304, w, a, out))                                        \
    TILE(NAME, 4608, BODY(4608, w, a, out))
#define ENTRY(NAME, TITLE, FORMAT, K, R, CHANNELS) {TITLE, FORMAT, K, R, CHANNELS, NAME##_##K}
#define ENTRIES(NAME, TITLE, FORMAT, R, CHANNELS)                                  \
    ENTRY(NAME, TITLE, FORMAT, 576, R, CHANNELS),                                  \
    ENTRY(NAME, TITLE, FORMAT, 1152, R, CHANNELS),                                 \
    ENTRY(NAME, TITLE, FORMAT, 2304, R, CHANNELS),                                 \
    ENTRY(NAME, TITLE, FORMAT, 4608, R, CHANNELS)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL(N) UNROLL_(GCC unroll N)
#define UNROLL_(TEXT) _Pragma(#TEXT)

/* M(r, v) for every register of a tile. */
#define ROW2(M, R) M(R, 0) M(R, 1)
#define ROW3(M, R) ROW2(M, R) M(R, 2)
#define ROW4(M, R) ROW3(M, R) M(R, 3)
#define EACH_3X3(M) ROW3(M, 0) ROW3(M, 1) ROW3(M, 2)
#define EACH_6X2(M) ROW2(M, 0) ROW2(M, 1) ROW2(M, 2) ROW2(M, 3) ROW2(M, 4) ROW2(M, 5)
#define EACH_6X4(M) ROW4(M, 0) ROW4(M, 1) ROW4(M, 2) ROW4(M, 3) ROW4(M, 4) ROW4(M, 5)

/* One instruction that adds to a register; of the intrinsics, gcc 12 puts most sums on the stack. */
#define ACCUMULATE(INSTRUCTION, SUM, X, Y) __asm__(INSTRUCTION : "+v"(SUM) : "v"(X), "v"(Y))
#define ADD(INSTRUCTION, SUM, X) __asm__(INSTRUCTION " %1, %0, %0" : "+v"(SUM) : "v"(X))

INLINE int32_t four_bytes(const uint8_t *at) {
    int32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

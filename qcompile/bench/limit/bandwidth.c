/* Reading memory in order, as fast as a core can: vectors of 64 bytes, whatever instructions they become. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t vector __attribute__((vector_size(64)));
enum { STREAMS = 8 };

static vector *memory;

/* Room for so many bytes, each page of it written to; 0 if there is none. */
int bandwidth_open(int64_t bytes) {
    memory = aligned_alloc(4096, (size_t)bytes);
    if (!memory) return 0;
    memset(memory, 1, (size_t)bytes);
    return 1;
}

void bandwidth_close(void) {
    free(memory);
    memory = NULL;
}

/* Reads the first bytes, a multiple of 512, so many times. */
uint64_t bandwidth_read(int64_t bytes, int64_t repeats) {
    vector sums[STREAMS] = {{0}};
    int64_t count = bytes / (int64_t)sizeof(vector);
    for (int64_t r = 0; r < repeats; r++) {
        for (int64_t i = 0; i < count; i += STREAMS)
            for (int s = 0; s < STREAMS; s++) sums[s] ^= memory[i + s];
        /* The next pass reads anew. */
        __asm__ volatile("" ::: "memory");
    }
    uint64_t found = 0;
    for (int s = 0; s < STREAMS; s++)
        for (int lane = 0; lane < 8; lane++) found ^= sums[s][lane];
    return found;
}

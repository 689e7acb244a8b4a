/* What limits.py calls: included after the table `kernels`. */
enum { COUNT = sizeof kernels / sizeof kernels[0] };
static struct {
    uint8_t *weights, *pixels;
} data[COUNT];
static int32_t results[PIXELS * MAX_CHANNELS] __attribute__((aligned(64)));
static int8_t weight_at[MAX_CHANNELS][MAX_K], pixel_at[PIXELS][MAX_K];

static size_t pixel_bytes(const struct kernel *kernel) {
    static const int all[] = {[WORDS] = 1, [NIBBLES] = 2, [BYTES] = 8, [FLOATS] = 32};
    int bits = all[kernel->format];
    return (size_t)kernel->k * bits / 8;
}

static size_t weight_bytes(const struct kernel *kernel) {
    if (kernel->format == BYTES) return (size_t)kernel->channels * PERIOD;
    if (kernel->format == FLOATS) return (size_t)kernel->channels * PERIOD * 4;
    return (size_t)kernel->channels * kernel->k / 8;
}

static uint8_t *zeros(size_t size) {
    uint8_t *made = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!made) abort();
    return memset(made, 0, size);
}

/* Bits are 1 where the sign is negative; a dot product is K - 2 * (places that differ). */
static void pack(const struct kernel *kernel, uint8_t *weights, uint8_t *pixels) {
    int n = kernel->channels, k = kernel->k;
    uint32_t *words = (uint32_t *)weights;
    float *floats = (float *)weights;
    for (int c = 0; c < n; c++)
        for (int i = 0; i < k; i++) {
            int value = weight_at[c][i];
            if (kernel->format == WORDS) words[i / 32 * n + c] |= (uint32_t)(value < 0) << i % 32;
            /* Of each vector, byte j of the 32-bit lane l is channel j * VECTOR / 4 + l, so that
               results come out in order. */
            int lane = c % (VECTOR / 4), byte = c % VECTOR / (VECTOR / 4);
            if (kernel->format == NIBBLES)
                weights[i / 8 * n + c / VECTOR * VECTOR + lane * 4 + byte] |= (value < 0) << i % 8;
            if (kernel->format == BYTES) weights[i % PERIOD / 4 * n * 4 + c * 4 + i % 4] = value;
            if (kernel->format == FLOATS) floats[i % PERIOD * n + c] = value;
        }
    for (int p = 0; p < PIXELS; p++)
        for (int i = 0; i < k; i++) {
            int value = pixel_at[p][i];
            uint8_t *own = pixels + p * pixel_bytes(kernel);
            if (kernel->format == WORDS) own[i / 8] |= (value < 0) << i % 8;
            /* One byte for four bits, times the 16 bytes of a row of the lookup table. */
            if (kernel->format == NIBBLES) own[i / 4] |= (value < 0) << (4 + i % 4);
            if (kernel->format == BYTES) own[i] = value;
            if (kernel->format == FLOATS) ((float *)own)[i] = value;
        }
}

static void fill(const struct kernel *kernel) {
    uint32_t state = 12345;
    int binary = kernel->format == WORDS || kernel->format == NIBBLES;
    int8_t *tables[] = {&weight_at[0][0], &pixel_at[0][0]};
    int counts[] = {MAX_CHANNELS * MAX_K, PIXELS * MAX_K};
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < counts[t]; i++) {
            state = state * 1664525u + 1013904223u;
            int value = (int)(state >> 24);
            /* 7 bits by 7 bits: no pair of products saturates vpmaddubsw. */
            tables[t][i] = binary ? (value & 1 ? -1 : 1) : t ? value & 63 : (value & 127) - 64;
        }
    if (!binary)
        for (int c = 0; c < MAX_CHANNELS; c++)
            for (int i = PERIOD; i < MAX_K; i++) weight_at[c][i] = weight_at[c][i % PERIOD];
}

/* Run kernel i on its data, which limit_check made. */
void limit_run(int i, int repeats) {
    const struct kernel *kernel = &kernels[i];
    size_t size = pixel_bytes(kernel);
    for (int n = 0; n < repeats; n++)
        for (int p = 0; p < PIXELS; p += kernel->rows)
            kernel->tile(data[i].weights, data[i].pixels + p * size,
                         results + p * kernel->channels);
}

int limit_count(void) { return COUNT; }
const char *limit_method(int i) { return kernels[i].method; }
int limit_k(int i) { return kernels[i].k; }
int limit_macs(int i) { return PIXELS * kernels[i].channels * kernels[i].k; }

/* Prepare kernel i, and say whether its results are right. */
int limit_check(int i) {
    const struct kernel *kernel = &kernels[i];
    if (!data[i].weights) {
        data[i].weights = zeros(weight_bytes(kernel));
        data[i].pixels = zeros(PIXELS * pixel_bytes(kernel));
    }
    fill(kernel);
    pack(kernel, data[i].weights, data[i].pixels);
    memset(results, 0, sizeof results);
    limit_run(i, 1);
    for (int p = 0; p < PIXELS; p++)
        for (int c = 0; c < kernel->channels; c++) {
            int32_t sum = 0, got = results[p * kernel->channels + c];
            for (int k = 0; k < kernel->k; k++) sum += weight_at[c][k] * pixel_at[p][k];
            float whole = (float)sum, found;
            memcpy(&found, &got, sizeof found);
            if (kernel->format == FLOATS ? found != whole : got != sum) return 0;
        }
    return 1;
}

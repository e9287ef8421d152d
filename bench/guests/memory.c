/* Reads or writes of one width, in order or in random order, over 1 MiB.
   memory ROUNDS read|write seq|random 1|2|4|8: a round is 65,536 accesses. */
#include "bench.h"
enum { BYTES = 1 << 20, BATCH = 65536 };
static uint64_t storage[BYTES / 8];

#define KERNELS(T) \
    static uint64_t read_seq_##T(uint64_t n) { \
        const volatile T *p = (const volatile T *)storage; \
        uint64_t sum = 0, at = 0; \
        for (; n; n--, at = (at + BATCH) % (BYTES / sizeof(T))) \
            for (uint64_t i = 0; i < BATCH; i++) sum = sum + p[(at + i) % (BYTES / sizeof(T))]; \
        return sum; } \
    static uint64_t read_random_##T(uint64_t n) { \
        const volatile T *p = (const volatile T *)storage; \
        uint64_t sum = 0, at = 1; \
        for (n *= BATCH; n; n--) { at = at * 6364136223846793005u + 1442695040888963407u; sum += p[(at >> 40) % (BYTES / sizeof(T))]; } \
        return sum; } \
    static uint64_t write_seq_##T(uint64_t n) { \
        volatile T *p = (volatile T *)storage; \
        uint64_t at = 0; \
        for (; n; n--, at = (at + BATCH) % (BYTES / sizeof(T))) \
            for (uint64_t i = 0; i < BATCH; i++) p[(at + i) % (BYTES / sizeof(T))] = (T)(n + i); \
        return at; } \
    static uint64_t write_random_##T(uint64_t n) { \
        volatile T *p = (volatile T *)storage; \
        uint64_t at = 1; \
        for (n *= BATCH; n; n--) { at = at * 6364136223846793005u + 1442695040888963407u; p[(at >> 40) % (BYTES / sizeof(T))] = (T)at; } \
        return at; }
KERNELS(uint8_t) KERNELS(uint16_t) KERNELS(uint32_t) KERNELS(uint64_t)

#define ROW(T) {{read_seq_##T, read_random_##T}, {write_seq_##T, write_random_##T}}
typedef uint64_t kernel(uint64_t);
static kernel *const kernels[4][2][2] = {ROW(uint8_t), ROW(uint16_t), ROW(uint32_t), ROW(uint64_t)};

int main(int argc, char **argv) {
    uint64_t n = rounds(argc, argv), state = 9;
    if (argc < 5) return 2;
    for (int i = 0; i < BYTES / 8; i++) storage[i] = step(&state);
    int width = argv[4][0] == '1' ? 0 : argv[4][0] == '2' ? 1 : argv[4][0] == '4' ? 2 : 3;
    uint64_t result = kernels[width][argv[2][0] == 'w'][argv[3][0] == 'r'](n);
    for (int i = 0; i < BYTES / 8; i += 7) result = result * 31 + storage[i];
    return answer(result);
}

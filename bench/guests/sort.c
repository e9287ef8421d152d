/* The C library's qsort: a comparison through a function pointer. A round sorts 100,000 integers. */
#include "bench.h"
static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}
int main(int argc, char **argv) {
    enum { SIZE = 100000 };
    static uint32_t data[SIZE];
    uint64_t state = 5, total = 0;
    for (uint64_t n = rounds(argc, argv); n; n--) {
        for (int i = 0; i < SIZE; i++) data[i] = (uint32_t)step(&state);
        qsort(data, SIZE, sizeof *data, compare);
        for (int i = 0; i < SIZE; i += 1000) total = total * 31 + data[i];
    }
    return answer(total);
}

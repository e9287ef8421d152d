/* Library and hand-written sorts through function pointers, binary search, a heap. */
#include "check.h"
#include <stdlib.h>

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}
static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static void sift(uint32_t *heap, size_t root, size_t size) {
    for (size_t child; (child = 2 * root + 1) < size; root = child) {
        if (child + 1 < size && heap[child + 1] > heap[child]) child++;
        if (heap[root] >= heap[child]) return;
        uint32_t t = heap[root]; heap[root] = heap[child]; heap[child] = t;
    }
}
int main(void) {
    enum { N = 20000 };
    static uint32_t data[N], copy[N];
    static char text[2000][12], *lines[2000];
    uint64_t state = 42;
    for (int i = 0; i < N; i++) data[i] = copy[i] = (uint32_t)next_random(&state) % 100000;
    qsort(data, N, sizeof *data, by_value);
    for (size_t i = N / 2; i-- > 0;) sift(copy, i, N);
    for (size_t size = N; size-- > 1;) {
        uint32_t t = copy[0]; copy[0] = copy[size]; copy[size] = t;
        sift(copy, 0, size);
    }
    printf("same %d\n", !memcmp(data, copy, sizeof data));
    mix_bytes(data, sizeof data);
    int found = 0;
    for (uint32_t key = 0; key < 100000; key += 7) found += bsearch(&key, data, N, sizeof *data, by_value) != NULL;
    printf("found %d\n", found);
    for (int i = 0; i < 2000; i++) { snprintf(text[i], 12, "%llx", (unsigned long long)next_random(&state) >> 32); lines[i] = text[i]; }
    qsort(lines, 2000, sizeof *lines, by_text);
    for (int i = 0; i < 2000; i++) mix_bytes(lines[i], strlen(lines[i]));
    printf("%s %s\n", lines[0], lines[1999]);
    return report("sorting");
}

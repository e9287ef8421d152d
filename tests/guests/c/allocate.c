/* malloc, realloc, calloc and mmap under stress, from several threads. */
#define _GNU_SOURCE
#include "check.h"
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void *stress(void *argument) {
    enum { SLOTS = 300 };
    unsigned char *slot[SLOTS] = {0};
    size_t size[SLOTS] = {0};
    uint64_t state = (uintptr_t)argument * 7919 + 1, sum = 0;
    for (int i = 0; i < 20000; i++) {
        size_t at = next_random(&state) % SLOTS;
        if (slot[at]) {
            for (size_t j = 0; j < size[at]; j += 97) if (slot[at][j] != (unsigned char)(at + j)) abort();
            sum += size[at];
        }
        size_t want = next_random(&state) % (i % 100 == 0 ? 300000 : 2000) + 1;
        if (i & 1) slot[at] = realloc(slot[at], want); else { free(slot[at]); slot[at] = calloc(1, want); }
        size[at] = want;
        for (size_t j = 0; j < want; j += 97) slot[at][j] = (unsigned char)(at + j);
    }
    for (int i = 0; i < SLOTS; i++) free(slot[i]);
    return (void *)(uintptr_t)sum;
}
int main(void) {
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++) pthread_create(&threads[i], NULL, stress, (void *)i);
    for (int i = 0; i < 3; i++) { void *sum; pthread_join(threads[i], &sum); mix((uintptr_t)sum); }
    size_t large = 64 << 20;
    char *grown = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(grown, "moved");
    grown = mremap(grown, 4096, large, MREMAP_MAYMOVE);
    grown[large - 1] = 'x';
    printf("%s %c\n", grown, grown[large - 1]);
    madvise(grown, large, MADV_DONTNEED);
    printf("forgotten %d\n", grown[0]);
    munmap(grown, large);
    void *before = sbrk(0);
    sbrk(1 << 20); memset(before, 1, 1 << 20); sbrk(-(1 << 20));
    printf("brk %d\n", sbrk(0) == before);
    void *aligned;
    for (int shift = 4; shift < 20; shift++) { if (posix_memalign(&aligned, 1ul << shift, 100)) abort(); mix((uintptr_t)aligned & ((1ul << shift) - 1)); free(aligned); }
    void *none = malloc((size_t)1 << 60);
    printf("refused %d\n", none == NULL);
    return report("allocate");
}

/* Code that changes: written, run, rewritten in place, its page flipped, unmapped and mapped anew. */
#include "check.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

typedef long function(long);
#ifdef __riscv
#define RET 0x00008067u
static uint32_t addi(int value) { return (uint32_t)value << 20 | 10 << 15 | 10 << 7 | 0x13; } /* addi a0,a0,value */
static uint32_t slli(int value) { return (uint32_t)value << 20 | 10 << 15 | 1 << 12 | 10 << 7 | 0x13; }
static void flush(void *start, size_t size) { __builtin___clear_cache((char *)start, (char *)start + size); }

int main(void) {
    size_t size = 4 * 4096;
    uint32_t *code = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long total = 0;
    for (int i = 0; i < 1000; i++) { /* the same place, other code each time */
        code[0] = addi(i); code[1] = RET;
        flush(code, 8);
        total += ((function *)code)(i);
    }
    printf("rewritten %ld\n", total);
    for (int i = 0; i < 500; i++) { /* one instruction in the middle of hot code */
        for (int j = 0; j < 20; j++) code[j] = addi(1);
        code[20] = RET;
        code[i % 20] = slli(i % 5);
        __asm__ volatile("fence.i" ::: "memory");
        for (int call = 0; call < 40; call++) total += ((function *)code)(call);
    }
    printf("patched %ld\n", total);
    for (int i = 0; i < 1022; i++) code[1024 - 511 + i] = addi(1); /* across a page boundary */
    code[1024 + 511] = RET;
    flush(code, size);
    for (int i = 0; i < 100; i++) total += ((function *)(code + 1024 - 511))(i);
    printf("crossing %ld\n", total);
    for (int i = 0; i < 50; i++) { /* writable or executable, never both */
        mprotect(code, 4096, PROT_READ | PROT_WRITE);
        code[0] = addi(100 + i); code[1] = RET;
        mprotect(code, 4096, PROT_READ | PROT_EXEC);
        flush(code, 8);
        total += ((function *)code)(1);
    }
    printf("flipped %ld\n", total);
    for (int i = 0; i < 50; i++) { /* other code at the same address after munmap */
        munmap(code, 4096);
        uint32_t *again = mmap(code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (again != code) abort();
        code[0] = slli(i % 8); code[1] = addi(i); code[2] = RET;
        flush(code, 12);
        for (int call = 0; call < 30; call++) total += ((function *)code)(call);
    }
    printf("mapped anew %ld\n", total);
    mix((uint64_t)total);
    return report("rewrite");
}
#else
int main(void) { return 0; }
#endif

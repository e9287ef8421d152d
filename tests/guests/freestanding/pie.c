/* A static-PIE that relocates itself: prints where it may be and its arguments, exits with argc. */
#include <elf.h>
#include <stddef.h>
#include <stdint.h>

static long call(long number, long a, long b, long c) {
    register long a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c, a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}
static void print(const char *text) {
    long size = 0;
    while (text[size]) size++;
    call(64, 1, (long)text, size);
    call(64, 1, (long)"\n", 1);
}
static const char *const words[] = {"a pointer that needs relocating"};
const char *const *volatile table = words;

__attribute__((used)) static void begin(long *stack, const Elf64_Dyn *dynamic, uintptr_t base) {
    const Elf64_Rela *rela = NULL;
    size_t size = 0;
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        if (dynamic->d_tag == DT_RELA) rela = (const void *)(base + dynamic->d_un.d_ptr);
        if (dynamic->d_tag == DT_RELASZ) size = dynamic->d_un.d_val;
    }
    for (size_t i = 0; i < size / sizeof *rela; i++)
        if (ELF64_R_TYPE(rela[i].r_info) == R_RISCV_RELATIVE)
            *(uintptr_t *)(base + rela[i].r_offset) = base + (uintptr_t)rela[i].r_addend;
    print(table[0]);
    print(base & 4095 ? "base not at a page" : "base at a page");
    for (long i = 1; i < stack[0]; i++) print((const char *)stack[1 + i]);
    call(93, stack[0], 0, 0);
}
__asm__(".globl _start\n_start: mv a0,sp\n lla a1,_DYNAMIC\n lla a2,__ehdr_start\n tail begin\n");

/* A compiler inside the guest: random expressions become RV64 code, checked against a tree walk. */
#include "check.h"
#include <stdlib.h>
#include <sys/mman.h>
#ifdef __riscv
struct node { int kind; long value; struct node *left, *right; };
static uint64_t state = 2463534242u;
static struct node *grow(int depth) {
    struct node *n = malloc(sizeof *n);
    n->kind = depth ? (int)(next_random(&state) % 8) : (int)(next_random(&state) % 2);
    n->value = (long)(next_random(&state) % 4000) - 2000;
    if (n->kind > 1) { n->left = grow(depth - 1); n->right = grow(depth - 1); }
    return n;
}
static long walk(struct node *n, long x) {
    if (n->kind == 0) return x;
    if (n->kind == 1) return n->value;
    unsigned long a = (unsigned long)walk(n->left, x), b = (unsigned long)walk(n->right, x);
    switch (n->kind) {
    case 2: return (long)(a + b); case 3: return (long)(a - b); case 4: return (long)(a * b);
    case 5: return (long)(a ^ b); case 6: return (long)a >> (b & 63); default: return (long)a < (long)b;
    }
}
static uint32_t *out;
static void emit(struct node *n, int reg) { /* x in a0, the result in t-register `reg`, spilled by pairs on the stack */
    if (n->kind == 0) { *out++ = 10u << 15 | (uint32_t)reg << 7 | 0x13; return; }
    if (n->kind == 1) { *out++ = (uint32_t)n->value << 20 | (uint32_t)reg << 7 | 0x13; return; }
    static const uint32_t ops[] = {0x33, 0x40000033, 0x02000033, 0x4033, 0x40005033, 0x2033};
    emit(n->left, reg);
    *out++ = 0xff010113;                                       /* addi sp,sp,-16 */
    *out++ = (uint32_t)reg << 20 | 2 << 15 | 3 << 12 | 0x23;   /* sd reg,0(sp) */
    emit(n->right, reg);
    *out++ = 2 << 15 | 3 << 12 | 6 << 7 | 0x3;                 /* ld t1,0(sp) */
    *out++ = 0x01010113;                                       /* addi sp,sp,16 */
    *out++ = ops[n->kind - 2] | (uint32_t)reg << 20 | 6 << 15 | (uint32_t)reg << 7;
}
static void drop(struct node *n) { if (n->kind > 1) { drop(n->left); drop(n->right); } free(n); }
int main(void) {
    uint32_t *code = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int wrong = 0;
    for (int i = 0; i < 300; i++) {
        struct node *tree = grow(3 + i % 6);
        out = code + (i % 7) * 1000;                           /* places are used again and again */
        uint32_t *start = out;
        emit(tree, 5);
        *out++ = 5 << 15 | 10 << 7 | 0x13;                     /* mv a0,t0 */
        *out++ = 0x8067;
        __builtin___clear_cache((char *)start, (char *)out);
        for (long x = -20; x < 20; x++) {
            long got = ((long (*)(long))start)(x), want = walk(tree, x);
            wrong += got != want;
            mix((uint64_t)got);
        }
        drop(tree);
    }
    printf("wrong %d\n", wrong);
    return report("tinyjit");
}
#else
int main(void) { return 0; }
#endif

/* Deep and wide recursion, with frames large and small. */
#include "check.h"
#include <stdlib.h>

static uint64_t fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static uint64_t ackermann(uint64_t m, uint64_t n) {
    return !m ? n + 1 : !n ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
static uint64_t __attribute__((noinline)) deep(unsigned n, uint64_t a) {
    volatile uint64_t frame[8] = {a, n};
    if (!n) return a;
    uint64_t below = deep(n - 1, a * 31 + n);
    return below ^ frame[0] ^ frame[1];
}
static void hanoi(int n, int from, int to, int via) {
    if (!n) return;
    hanoi(n - 1, from, via, to); mix((uint64_t)(from * 4 + to)); hanoi(n - 1, via, to, from);
}
struct tree { struct tree *left, *right; uint64_t key; };
static struct tree *insert(struct tree *t, uint64_t key) {
    if (!t) { t = calloc(1, sizeof *t); t->key = key; return t; }
    if (key < t->key) t->left = insert(t->left, key); else t->right = insert(t->right, key);
    return t;
}
static void walk(struct tree *t) { if (t) { walk(t->left); mix(t->key); walk(t->right); free(t); } }

int main(void) {
    printf("fib %llu\n", (unsigned long long)fib(24));
    printf("ackermann %llu\n", (unsigned long long)ackermann(2, 200));
    printf("deep %llx\n", (unsigned long long)deep(40000, 1));
    hanoi(12, 0, 2, 1);
    struct tree *t = NULL;
    uint64_t state = 99;
    for (int i = 0; i < 5000; i++) t = insert(t, next_random(&state));
    walk(t);
    return report("recursion");
}

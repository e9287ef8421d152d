/* Indirect control flow: a big switch, computed goto, tables of functions, tail calls. */
#include "check.h"
#include <stdlib.h>

static uint64_t big_switch(unsigned op, uint64_t a) {
    switch (op) {
#define CASE(n) case n: return a * (n * 2 + 1) + (a >> (n % 31 + 1));
#define TEN(n) CASE(n) CASE(n + 1) CASE(n + 2) CASE(n + 3) CASE(n + 4) CASE(n + 5) CASE(n + 6) CASE(n + 7) CASE(n + 8) CASE(n + 9)
    TEN(0) TEN(10) TEN(20) TEN(30) TEN(40) TEN(50) TEN(60) TEN(70) TEN(80) TEN(90)
    case 1000: return ~a; case 5000: return -a; case 90000: return a << 3;
    default: return a + op;
    }
}
static uint64_t threaded(const unsigned char *code) { /* a stack machine */
    static void *const labels[] = {&&push, &&add, &&multiply, &&swap, &&drop, &&jump_if, &&duplicate, &&halt};
    uint64_t stack[64], *top = stack - 1;
#define NEXT goto *labels[*code++]
    NEXT;
push: *++top = (uint64_t)(int64_t)(signed char)*code++; NEXT;
add: top[-1] += top[0]; top--; NEXT;
multiply: top[-1] *= top[0]; top--; NEXT;
swap: { uint64_t t = top[0]; top[0] = top[-1]; top[-1] = t; } NEXT;
drop: top--; NEXT;
jump_if: if (top[0]) code += (signed char)*code; else code++; NEXT;
duplicate: top[1] = top[0]; top++; NEXT;
halt: return top[-1];
}
typedef uint64_t function(uint64_t);
static uint64_t one(uint64_t a) { return a * 3 + 1; }
static uint64_t two(uint64_t a) { return a ^ a >> 5; }
static uint64_t three(uint64_t a) { return (a << 7) - a; }
static uint64_t four(uint64_t a) { return a + 0x9e3779b97f4a7c15u; }
static function *const table[] = {one, two, three, four};
static uint64_t even(uint64_t n, uint64_t a);
static uint64_t odd(uint64_t n, uint64_t a) { return n ? even(n - 1, a * 5) : a; }
static uint64_t even(uint64_t n, uint64_t a) { return n ? odd(n - 1, a + n) : a; }

int main(void) {
    uint64_t state = 7, a = 1;
    for (int i = 0; i < 200000; i++) a = big_switch((unsigned)(next_random(&state) % 110), a);
    a ^= big_switch(1000, a) ^ big_switch(5000, a) ^ big_switch(90000, a) ^ big_switch(123456, a);
    mix(a);
    /* a = 5, n = 100; do { a *= 3; n -= 1; } while (n) */
    static const unsigned char loop[] = {0, 5, 0, 100, /* at 4: */ 3, 0, 3, 2, 3, 0, 0xff, 1, 5, (unsigned char)-9, 7};
    mix(threaded(loop));
    for (int i = 0; i < 200000; i++) a = table[(a >> 13) & 3](a);
    mix(a);
    mix(even(1000, 3));
    return report("dispatch");
}

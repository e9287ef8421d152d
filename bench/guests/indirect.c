/* Calls through a table in an order nobody can foresee. A round is one call. */
#include "bench.h"
typedef uint64_t function(uint64_t);
#define F(n, e) static uint64_t __attribute__((noinline)) f##n(uint64_t a) { return e; }
F(0, a + 0x9e3779b97f4a7c15u) F(1, a ^ a >> 29) F(2, a * 5 + 1) F(3, (a << 11) - a)
F(4, a - (a >> 7)) F(5, ~a * 3) F(6, (a ^ 0x5555) + (a >> 33)) F(7, a * 0xbf58476d1ce4e5b9u)
int main(int argc, char **argv) {
    static function *const volatile table[8] = {f0, f1, f2, f3, f4, f5, f6, f7};
    uint64_t a = 12345;
    for (uint64_t n = rounds(argc, argv); n; n--) a = table[(a >> 17 ^ n) & 7](a);
    return answer(a);
}

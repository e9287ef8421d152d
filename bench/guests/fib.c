/* Doubly recursive Fibonacci: calls and returns. The count is the argument of fib. */
#include "bench.h"
static uint64_t __attribute__((noinline)) fib(uint64_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
int main(int argc, char **argv) { return answer(fib(rounds(argc, argv))); }

/* Integer arithmetic of every width, with the corners of division, shifts and wide products. */
#include "check.h"
#include <limits.h>

static const int64_t corners[] = {0, 1, -1, 2, -2, 7, -7, INT_MIN, INT_MAX, INT64_MIN, INT64_MAX,
    0x80000000ll, 0xffffffffll, 0x7fff, -0x8000, 255, 0x5555555555555555ll};
enum { CORNERS = sizeof corners / sizeof *corners };

#define ALL(T, a, b) do { \
    T x = (T)(a), y = (T)(b); \
    mix((uint64_t)(T)((uint64_t)x + (uint64_t)y)); mix((uint64_t)(T)((uint64_t)x - (uint64_t)y)); \
    mix((uint64_t)(T)((uint64_t)x * (uint64_t)y)); mix(x & y); mix(x | y); mix(x ^ y); \
    mix(x < y); mix(x == y); mix((uint64_t)~x); \
    if (y && !((T)-1 < 0 && y == (T)-1)) { mix(x / y); mix(x % y); } } while (0)

static uint64_t raw_div(int64_t a, int64_t b) { /* the machine's own answer, corners included */
#ifdef __riscv
    uint64_t q, r, qu, ru, qw, rw;
    __asm__ volatile("div %0,%6,%7\n rem %1,%6,%7\n divu %2,%6,%7\n remu %3,%6,%7\n divw %4,%6,%7\n remw %5,%6,%7"
        : "=&r"(q), "=&r"(r), "=&r"(qu), "=&r"(ru), "=&r"(qw), "=&r"(rw) : "r"(a), "r"(b));
    return q ^ (r * 3) ^ (qu * 5) ^ (ru * 7) ^ (qw * 11) ^ (rw * 13);
#else
    return (uint64_t)a ^ (uint64_t)b;
#endif
}

int main(void) {
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < CORNERS; i++)
        for (int j = 0; j < CORNERS; j++) {
            int64_t a = corners[i], b = corners[j];
            ALL(int8_t, a, b); ALL(uint8_t, a, b); ALL(int16_t, a, b); ALL(uint16_t, a, b);
            ALL(int32_t, a, b); ALL(uint32_t, a, b); ALL(int64_t, a, b); ALL(uint64_t, a, b);
            mix(raw_div(a, b));
        }
    report("corners");
    for (int i = 0; i < 20000; i++) {
        uint64_t a = next_random(&state), b = next_random(&state) >> (i & 63);
        ALL(int32_t, a, b); ALL(uint32_t, a, b); ALL(int64_t, a, b); ALL(uint64_t, a, b);
        mix(a << (b & 63)); mix(a >> (b & 63)); mix((uint64_t)((int64_t)a >> (b & 63)));
        mix((uint32_t)a << (b & 31)); mix((uint64_t)((int32_t)a >> (b & 31)));
        unsigned __int128 wide = (unsigned __int128)a * b;
        mix((uint64_t)(wide >> 64));
        mix((uint64_t)(((__int128)(int64_t)a * (int64_t)b) >> 64));
        if (b) mix((uint64_t)(wide / (b | 1)));
        mix((uint64_t)__builtin_popcountll(a)); mix((uint64_t)__builtin_bswap64(a));
        if (a) { mix((uint64_t)__builtin_clzll(a)); mix((uint64_t)__builtin_ctzll(a)); }
        int64_t sum;
        mix((uint64_t)__builtin_add_overflow((int64_t)a, (int64_t)b, &sum));
        mix(raw_div((int64_t)a, (int64_t)b));
    }
    return report("random");
}

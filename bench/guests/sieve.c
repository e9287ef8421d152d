/* Eratosthenes over a million bytes: strided stores and scans. A round is one sieve. */
#include "bench.h"
int main(int argc, char **argv) {
    enum { SIZE = 1000000 };
    static unsigned char composite[SIZE];
    uint64_t total = 0;
    for (uint64_t n = rounds(argc, argv); n; n--) {
        memset(composite, 0, SIZE);
        for (uint32_t i = 2; i * i < SIZE; i++)
            if (!composite[i])
                for (uint32_t j = i * i; j < SIZE; j += i) composite[j] = 1;
        for (uint32_t i = 2; i < SIZE; i++) total += !composite[i] ? i ^ n : 0;
    }
    return answer(total);
}

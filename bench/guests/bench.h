/* What every benchmark guest shares: a count of rounds in argv, a generator, a checksum on stdout. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline uint64_t step(uint64_t *state) { /* Marsaglia's xorshift64 */
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}
static inline uint64_t rounds(int argc, char **argv) {
    if (argc < 2) { fprintf(stderr, "usage: %s ROUNDS\n", argv[0]); exit(2); }
    return strtoull(argv[1], NULL, 0);
}
static inline int answer(uint64_t value) { return printf("%016llx\n", (unsigned long long)value) < 0; }

/* A chain of pointers through memory in random order. chase ROUNDS MEGABYTES: a round is 1,000,000 steps. */
#include "bench.h"
struct node { struct node *next; uint64_t pad[7]; }; /* one to a cache line */
int main(int argc, char **argv) {
    uint64_t n = rounds(argc, argv), state = 77;
    size_t count = (argc > 2 ? strtoull(argv[2], NULL, 0) : 2) << 20;
    count /= sizeof(struct node);
    struct node *nodes = malloc(count * sizeof *nodes);
    uint32_t *order = malloc(count * sizeof *order);
    for (size_t i = 0; i < count; i++) order[i] = (uint32_t)i;
    for (size_t i = count; i-- > 1;) { /* Sattolo: one cycle through all */
        size_t j = step(&state) % i;
        uint32_t t = order[i]; order[i] = order[j]; order[j] = t;
    }
    for (size_t i = 0; i < count; i++) { nodes[order[i]].next = &nodes[order[(i + 1) % count]]; nodes[i].pad[0] = i; }
    struct node *at = nodes;
    uint64_t sum = 0;
    for (n *= 1000000; n; n--) at = at->next, sum += at->pad[0];
    return answer(sum);
}

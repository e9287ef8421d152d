/* One dependent chain of shifts and xors: nothing but the integer pipeline. A round is one step. */
#include "bench.h"
int main(int argc, char **argv) {
    uint64_t state = 88172645463325252u;
    for (uint64_t n = rounds(argc, argv); n; n--) step(&state);
    return answer(state);
}

/* Escape times over a grid: multiplications, compares and branches on doubles. A round is one row of 512. */
#include "bench.h"
int main(int argc, char **argv) {
    uint64_t n = rounds(argc, argv), total = 0;
    for (uint64_t row = 0; row < n; row++)
        for (int column = 0; column < 512; column++) {
            double cr = column / 256.0 - 1.5, ci = (double)(row % 512) / 256.0 - 1.0, r = 0, i = 0;
            int steps = 0;
            while (steps < 100 && r * r + i * i <= 4.0) {
                double t = r * r - i * i + cr;
                i = 2 * r * i + ci, r = t, steps++;
            }
            total = total * 3 + (uint64_t)steps;
        }
    return answer(total);
}

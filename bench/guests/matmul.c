/* Matrices of doubles, 128 by 128, the textbook loop. A round is one product. */
#include "bench.h"
enum { N = 128 };
static double a[N][N], b[N][N], c[N][N];
int main(int argc, char **argv) {
    uint64_t state = 21;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(step(&state) % 1000) / 997.0;
            b[i][j] = (double)(step(&state) % 1000) / 991.0 / N;
        }
    for (uint64_t n = rounds(argc, argv); n; n--) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double sum = 0;
                for (int k = 0; k < N; k++) sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
        a[n % N][(n * 7) % N] = c[(n * 3) % N][n % N]; /* the next product needs this one */
    }
    uint64_t total = 0, bits;
    for (int i = 0; i < N; i++) { memcpy(&bits, &c[i][i], 8); total = total * 31 + bits; }
    return answer(total);
}

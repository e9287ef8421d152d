/* Five bodies under gravity: square roots and divisions of doubles. A round is one time step. */
#include "bench.h"
#include <math.h>
static struct body { double x, y, z, vx, vy, vz, mass; } bodies[5] = {
    {0, 0, 0, 0, 0, 0, 39.47841760435743},
    {4.84143144246472090, -1.16032004402742839, -0.10362204447112311, 0.60632639299583202, 2.81198684491626066, -0.02521836165988763, 0.03769367487038949},
    {8.34336671824457987, 4.12479856412430479, -0.40352341711432138, -1.01077434617879236, 1.82566237123041186, 0.00841576137658415, 0.01128632613196877},
    {12.8943695621391310, -15.1111514016986312, -0.22330757889265573, 1.08279100644153536, 0.86871301816960822, -0.01083263740136364, 0.00172372405705971},
    {15.3796971148509165, -25.9193146099879641, 0.17925877295037118, 0.97909073224389798, 0.59469899864767617, -0.03475595551616253, 0.00203368686992463}};
int main(int argc, char **argv) {
    for (uint64_t n = rounds(argc, argv); n; n--) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++) {
                double dx = bodies[i].x - bodies[j].x, dy = bodies[i].y - bodies[j].y, dz = bodies[i].z - bodies[j].z;
                double square = dx * dx + dy * dy + dz * dz, pull = 0.001 / (square * sqrt(square));
                bodies[i].vx -= dx * bodies[j].mass * pull; bodies[j].vx += dx * bodies[i].mass * pull;
                bodies[i].vy -= dy * bodies[j].mass * pull; bodies[j].vy += dy * bodies[i].mass * pull;
                bodies[i].vz -= dz * bodies[j].mass * pull; bodies[j].vz += dz * bodies[i].mass * pull;
            }
        for (int i = 0; i < 5; i++) {
            bodies[i].x += 0.001 * bodies[i].vx; bodies[i].y += 0.001 * bodies[i].vy; bodies[i].z += 0.001 * bodies[i].vz;
        }
    }
    uint64_t total = 0, bits;
    for (int i = 0; i < 5; i++) { memcpy(&bits, &bodies[i].x, 8); total = total * 31 + bits; }
    return answer(total);
}

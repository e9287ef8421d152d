/* CRC-32 bit by bit over a buffer: short loops and unpredictable selects. A round is one byte. */
#include "bench.h"
int main(int argc, char **argv) {
    enum { SIZE = 1 << 16 };
    static unsigned char data[SIZE];
    uint64_t state = 1;
    for (int i = 0; i < SIZE; i++) data[i] = (unsigned char)step(&state);
    uint32_t crc = ~0u;
    uint64_t n = rounds(argc, argv);
    for (uint64_t i = 0; i < n; i++) {
        crc ^= data[i % SIZE];
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    return answer(~crc);
}

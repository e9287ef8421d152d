/* An interpreter in a switch, running a small loop of bytecode. A round is one bytecode loop of 8 steps. */
#include "bench.h"
enum { ADD, SUB, XOR, SHIFT, LOAD, STORE, MULTIPLY, LOOP };
int main(int argc, char **argv) {
    static const unsigned char volatile source[] = {ADD, 1, STORE, 2, XOR, 3, SHIFT, 5, LOAD, 2, MULTIPLY, 7, SUB, 9, LOOP, 0};
    unsigned char code[sizeof source];
    for (size_t i = 0; i < sizeof source; i++) code[i] = source[i];
    uint64_t n = rounds(argc, argv), a = 1, memory[16] = {0}, pc = 0;
    for (;;) {
        unsigned char operand = code[pc + 1];
        switch (code[pc]) {
        case ADD: a += operand + n; break;
        case SUB: a -= operand; break;
        case XOR: a ^= memory[operand] + n; break;
        case SHIFT: a = a << operand | a >> (64 - operand); break;
        case LOAD: a += memory[operand]; break;
        case STORE: memory[operand] = a; memory[3] += a >> 9; break;
        case MULTIPLY: a *= operand; break;
        case LOOP: if (!--n) return answer(a); pc = 0; continue;
        }
        pc += 2;
    }
}

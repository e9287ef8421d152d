/* Executes one floating-point instruction a record on whatever runs this program: the outside
 * oracle of `softfloat` when that is another emulator. Input and output are records of 64-bit
 * little-endian words: { operation, rm, a, b, c } gives { result, fflags }.
 *
 * Operands and results are patterns, NaN-boxed where they are narrow. The order of the operations
 * is the one of OPERATIONS in float_cases.py. */
#include <stdint.h>
#include <unistd.h>

struct in { uint64_t op, rm, a, b, c; };
struct out { uint64_t result, flags; };

#define F(reg, word) "fmv.d.x " reg ", %[" word "]\n\t"
#define TO_F(name) \
    __asm__ volatile(F("ft0", "a") F("ft1", "b") F("ft2", "c") \
                     "fsflags x0\n\t" name "\n\tfmv.x.d %[r], ft3\n\tfrflags %[f]" \
                     : [r] "=r"(r), [f] "=r"(f) : [a] "r"(i->a), [b] "r"(i->b), [c] "r"(i->c) \
                     : "ft0", "ft1", "ft2", "ft3")
#define TO_X(name) \
    __asm__ volatile(F("ft0", "a") F("ft1", "b") "fsflags x0\n\t" name "\n\tfrflags %[f]" \
                     : [r] "=&r"(r), [f] "=r"(f) : [a] "r"(i->a), [b] "r"(i->b) : "ft0", "ft1")
#define FROM_X(name) \
    __asm__ volatile("fsflags x0\n\t" name "\n\tfmv.x.d %[r], ft3\n\tfrflags %[f]" \
                     : [r] "=r"(r), [f] "=r"(f) : [a] "r"(i->a) : "ft3")

static struct out execute(const struct in *i)
{
    uint64_t r = 0, f = 0;
    __asm__ volatile("fsrm x0, %0" : : "r"(i->rm));
    switch (i->op) {
#define ARITHMETIC(base, s) \
    case base + 0: TO_F("fadd." s " ft3, ft0, ft1"); break; \
    case base + 1: TO_F("fsub." s " ft3, ft0, ft1"); break; \
    case base + 2: TO_F("fmul." s " ft3, ft0, ft1"); break; \
    case base + 3: TO_F("fdiv." s " ft3, ft0, ft1"); break; \
    case base + 4: TO_F("fsqrt." s " ft3, ft0"); break; \
    case base + 5: TO_F("fmadd." s " ft3, ft0, ft1, ft2"); break; \
    case base + 6: TO_F("fmin." s " ft3, ft0, ft1"); break; \
    case base + 7: TO_F("fmax." s " ft3, ft0, ft1"); break; \
    case base + 8: TO_X("feq." s " %[r], ft0, ft1"); break; \
    case base + 9: TO_X("flt." s " %[r], ft0, ft1"); break; \
    case base + 10: TO_X("fle." s " %[r], ft0, ft1"); break; \
    case base + 11: TO_X("fcvt.w." s " %[r], ft0, dyn"); break; \
    case base + 12: TO_X("fcvt.wu." s " %[r], ft0, dyn"); break; \
    case base + 13: TO_X("fcvt.l." s " %[r], ft0, dyn"); break; \
    case base + 14: TO_X("fcvt.lu." s " %[r], ft0, dyn"); break;
    ARITHMETIC(0, "s")
    ARITHMETIC(20, "d")
    case 15: FROM_X("fcvt.s.w ft3, %[a], dyn"); break;
    case 16: FROM_X("fcvt.s.wu ft3, %[a], dyn"); break;
    case 17: FROM_X("fcvt.s.l ft3, %[a], dyn"); break;
    case 18: FROM_X("fcvt.s.lu ft3, %[a], dyn"); break;
    case 19: TO_F("fcvt.s.d ft3, ft0, dyn"); break;
    case 35: FROM_X("fcvt.d.w ft3, %[a]"); break;
    case 36: FROM_X("fcvt.d.wu ft3, %[a]"); break;
    case 37: FROM_X("fcvt.d.l ft3, %[a], dyn"); break;
    case 38: FROM_X("fcvt.d.lu ft3, %[a], dyn"); break;
    case 39: TO_F("fcvt.d.s ft3, ft0"); break;
    default: _exit(3);
    }
    return (struct out){ r, f };
}

static int transfer(int out, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        char *at = (char *)data + done;
        ssize_t n = out ? write(1, at, size - done) : read(0, at, size - done);
        if (n <= 0)
            return 0;
        done += n;
    }
    return 1;
}

int main(void)
{
    uint64_t count;
    static struct in batch[512];
    static struct out results[512];
    while (transfer(0, &count, sizeof count)) {
        if (count > 512 || !transfer(0, batch, count * sizeof *batch))
            return 2;
        for (uint64_t i = 0; i < count; i++)
            results[i] = execute(&batch[i]);
        if (!transfer(1, results, count * sizeof *results))
            return 4;
    }
    return 0;
}

/* Floating point: corners, rounding modes, exception flags, conversions, printing. */
#include "check.h"
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#pragma STDC FENV_ACCESS ON

static void show(const char *name, volatile double value) {
    double copy = value;
    uint64_t bits;
    memcpy(&bits, &copy, 8);
    printf("%-12s %016llx %.17g %a\n", name, (unsigned long long)bits, copy, copy);
    mix(bits);
}
static void flags(const char *name) {
    int raised = fetestexcept(FE_ALL_EXCEPT);
    printf("%-12s%s%s%s%s%s\n", name, raised & FE_INEXACT ? " NX" : "", raised & FE_UNDERFLOW ? " UF" : "",
           raised & FE_OVERFLOW ? " OF" : "", raised & FE_DIVBYZERO ? " DZ" : "", raised & FE_INVALID ? " NV" : "");
    feclearexcept(FE_ALL_EXCEPT);
}

int main(void) {
    static const volatile double values[] = {0.0, -0.0, 1.0, -1.5, 0.1, 3.0, 1e308, -1e308, DBL_MIN, DBL_TRUE_MIN,
        INFINITY, -INFINITY, NAN, 9007199254740993.0, 2147483648.0, -2147483649.0, 1.8446744073709552e19, 0.49999999999999994};
    enum { COUNT = sizeof values / sizeof *values };
    static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    for (int mode = 0; mode < 4; mode++) {
        fesetround(modes[mode]);
        for (int i = 0; i < COUNT; i++) {
            volatile double a = values[i];
            volatile float fa = (float)a;
            mix((uint64_t)lrint(a > 1e18 || a < -1e18 || a != a ? 1.5 : a));
            for (int j = 0; j < COUNT; j++) {
                volatile double b = values[j], r;
                volatile float fb = (float)b, fr;
                r = a + b; mix_bytes((void *)&r, 8); r = a - b; mix_bytes((void *)&r, 8);
                r = a * b; mix_bytes((void *)&r, 8); r = a / b; mix_bytes((void *)&r, 8);
                r = fma(a, b, 0.1); mix_bytes((void *)&r, 8);
                fr = fa + fb; mix_bytes((void *)&fr, 4); fr = fa * fb; mix_bytes((void *)&fr, 4);
                fr = fa / fb; mix_bytes((void *)&fr, 4); fr = fmaf(fa, fb, -0.1f); mix_bytes((void *)&fr, 4);
                mix((uint64_t)(a < b) | (uint64_t)(a <= b) << 1 | (uint64_t)(a == b) << 2 | (uint64_t)!!isunordered(a, b) << 3);
                mix((uint64_t)fetestexcept(FE_ALL_EXCEPT)); feclearexcept(FE_ALL_EXCEPT);
            }
            volatile double root = sqrt(a);
            mix_bytes((void *)&root, 8);
        }
        printf("mode %d ", mode); report("corners");
    }
    fesetround(FE_TONEAREST);
    feclearexcept(FE_ALL_EXCEPT);
    volatile double zero = 0.0, one = 1.0, huge = DBL_MAX, tiny = DBL_MIN;
    show("1/3", one / 3.0); flags("inexact");
    show("1/0", one / zero); flags("divide");
    show("0/0", zero / zero); flags("invalid");
    show("huge*2", huge * 2); flags("overflow");
    show("tiny/3", tiny / 3); flags("underflow");
    show("sqrt(2)", sqrt(2 * one)); show("sqrt(-1)", sqrt(-one)); flags("sqrt");
    show("fmin", fmin(one, (double)NAN)); show("fmax", fmax(-zero, zero)); flags("minmax");
    show("float", (float)0.1); show("fma", fma(one + DBL_EPSILON, one - DBL_EPSILON, -one));
    volatile double wide = 1e20;
    printf("int %d %ld\n", (int)(volatile double){-2.7}, (long)(volatile double){1e15 + 0.5}); flags("convert");
#ifdef __riscv
    static const double odd[] = {1e20, -1e20, NAN, INFINITY, -0.9, 4294967296.5};
    for (int i = 0; i < 6; i++) { /* the machine's own saturation */
        long w, wu, l, lu;
        __asm__ volatile("fcvt.w.d %0,%4,rtz\n fcvt.wu.d %1,%4,rtz\n fcvt.l.d %2,%4,rtz\n fcvt.lu.d %3,%4,rtz"
            : "=&r"(w), "=&r"(wu), "=&r"(l), "=&r"(lu) : "f"(odd[i]));
        printf("saturate %ld %ld %ld %ld\n", w, wu, l, lu); flags("saturate");
    }
#endif
    for (int i = 0; i < 12; i++) printf("%.*f %.*e %g\n", i, M_PI * 1000, i, M_E / 1000, pow(10, i * 3 - 15));
    printf("%La %.30Lg\n", (long double)one / 3, (long double)wide / 7);
    printf("%g %g %g %g\n", strtod("1e-320", 0), strtod("0x1.8p3", 0), strtod("inf", 0), strtod("123456789012345678901234567890", 0));
    double sum = 0;
    for (int i = 1; i <= 2000; i++) sum += sin(i) * cos(i * 0.5) + log(i) - exp(-i * 0.01) + atan2(i, 7) + tgamma(1 + i % 20 * 0.1);
    show("libm", sum);
    return report("floats");
}

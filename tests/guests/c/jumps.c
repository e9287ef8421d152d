/* setjmp and longjmp, nested and out of a signal handler, and contexts that swap. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

static jmp_buf outer, inner;
static sigjmp_buf from_signal;
static void __attribute__((noinline)) dive(int depth, int code) {
    volatile char pad[100];
    pad[0] = (char)depth;
    if (!depth) longjmp(code & 1 ? inner : outer, code);
    dive(depth - 1, code);
    mix((uint64_t)pad[0]);
}
static void handler(int signo) { siglongjmp(from_signal, signo); }
static ucontext_t main_context, contexts[2];
static int turns;
static void coroutine(int id) {
    double held = id + 0.5; /* a callee-saved FP register across the swap */
    for (int i = 0; i < 5; i++) {
        printf("coroutine %d step %d %.1f\n", id, i, held += i);
        turns++;
        swapcontext(&contexts[id], &contexts[!id]);
    }
}
int main(void) {
    volatile int count = 0;
    double kept = 1.25;
    int code = setjmp(outer);
    count++;
    if (code < 6) {
        int small = setjmp(inner);
        printf("outer %d inner %d kept %.2f\n", code, small, kept);
        if (small < 5) dive(20, small + (small & 1 ? 2 : 1));
        dive(30, code + 2 + (code & 1));
    }
    printf("count %d\n", count);
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    for (volatile int i = 0; i < 3; i++) {
        int signo = sigsetjmp(from_signal, 1);
        if (!signo) { if (i & 1) raise(SIGUSR1); else *(volatile int *)(uintptr_t)8 = 1; }
        printf("signal %d\n", signo);
    }
    static char stacks[2][65536];
    for (int id = 0; id < 2; id++) {
        getcontext(&contexts[id]);
        contexts[id].uc_stack.ss_sp = stacks[id];
        contexts[id].uc_stack.ss_size = sizeof stacks[id];
        contexts[id].uc_link = &main_context;
        makecontext(&contexts[id], (void (*)(void))coroutine, 1, id);
    }
    swapcontext(&main_context, &contexts[0]);
    printf("turns %d\n", turns);
    return report("jumps");
}

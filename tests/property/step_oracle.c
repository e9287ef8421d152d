/* Executes short pieces of code from given register states and reports the states after them.
 *
 * Usage: step_oracle CASES RESULTS. Every case ends in a signal (its code is followed by breakpoints);
 * the handler saves the interrupted context as the result and returns into the next case's context,
 * so no register is reserved and faults are results like any other.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

enum { CODE = 0x40000000, CODE_SIZE = 4 << 20, CODE_MIDDLE = CODE + CODE_SIZE / 2, SLOT = 64,
       DATA = 0x20000000, WINDOW = 64 };

struct state {
    uint64_t pc, x[31], f[32], fcsr, signal;
    uint8_t code[32], memory[WINDOW];
};

static struct state *cases, *results;
static long count, at = -1;

/* No library call and no thread-local storage from here on: tp and gp belong to the case. */
static void leave(long status)
{
    register long a0 __asm__("a0") = status, a7 __asm__("a7") = 94;
    __asm__ volatile("ecall" ::"r"(a0), "r"(a7));
    __builtin_unreachable();
}

static void handler(int number, siginfo_t *info, void *context)
{
    (void)info;
    ucontext_t *user = context;
    uint64_t *registers = (uint64_t *)user->uc_mcontext.__gregs;
    if (at >= 0) {
        struct state *result = &results[at];
        result->pc = registers[0];
        result->signal = number;
        for (int i = 0; i < 31; i++)
            result->x[i] = registers[i + 1];
        for (int i = 0; i < 32; i++)
            result->f[i] = user->uc_mcontext.__fpregs.__d.__f[i];
        result->fcsr = user->uc_mcontext.__fpregs.__d.__fcsr;
        volatile uint8_t *window = (uint8_t *)(DATA + WINDOW * at);
        for (int i = 0; i < WINDOW; i++)
            result->memory[i] = window[i];
    }
    if (++at == count)
        leave(0);
    struct state *next = &cases[at];
    registers[0] = next->pc;
    for (int i = 0; i < 31; i++)
        registers[i + 1] = next->x[i];
    for (int i = 0; i < 32; i++)
        user->uc_mcontext.__fpregs.__d.__f[i] = next->f[i];
    user->uc_mcontext.__fpregs.__d.__fcsr = next->fcsr;
}

static void *map(long address, long size, int protection, int fd)
{
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *got = mmap((void *)address, size, protection, flags | (address ? MAP_FIXED : 0), fd, 0);
    if (got == MAP_FAILED)
        _exit(3);
    return got;
}

int main(int argc, char **argv)
{
    struct stat status;
    int input = argc == 3 ? open(argv[1], O_RDONLY) : -1;
    if (input < 0 || fstat(input, &status))
        return 2;
    int output = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (output < 0 || ftruncate(output, status.st_size))
        return 2;
    count = status.st_size / sizeof(struct state);
    cases = map(0, status.st_size, PROT_READ, input);
    results = map(0, status.st_size, PROT_READ | PROT_WRITE, output);
    map(DATA, (WINDOW * count + 0xfff) & ~0xfffL, PROT_READ | PROT_WRITE, -1);
    uint16_t *code = map(CODE, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, -1);
    for (long i = 0; i < CODE_SIZE / 2; i++)
        code[i] = 0x9002; /* c.ebreak */
    for (long i = 0; i < count; i++) {
        memcpy((void *)cases[i].pc, cases[i].code, sizeof cases[i].code);
        memcpy((void *)(DATA + WINDOW * i), cases[i].memory, WINDOW);
    }
    /* At an address that no case's sp is likely to hold: a signal that interrupts code on the
     * alternative stack stays at that sp. */
    uint8_t *stack = map(0x25a71c3000, 65536, PROT_READ | PROT_WRITE, -1);
    stack_t alternative = {.ss_sp = stack, .ss_size = 65536};
    sigaltstack(&alternative, 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    for (int number = SIGILL; number <= SIGSEGV; number++)
        sigaction(number, &action, 0);
    __asm__ volatile("ebreak");
    return 3;
}

/* Runs programs from given states and reports every exception they raise and what they leave.
 *
 * Usage: program_oracle PROGRAMS RESULTS. A program ends at the breakpoint `end` or after `most`
 * exceptions; the handler notes the interrupted context, goes on after the instruction (after a
 * jump to nowhere, at `resume`), or maps the next program and returns into its beginning.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

enum { WRITABLE = 2, SEGV = 11, WRITE = 64, EXIT = 94, UNMAP = 215, MAP = 222, PROTECT = 226 };

struct area {
    uint64_t start, size, protection;
};

struct program {
    uint64_t pc, end, resume, most, areas, x[32], f[32], fcsr;
};

struct moment {
    uint64_t more, signal, code, address, pc, x[32], f[32], fcsr;
};

static const char *input;
static uint64_t left;
static int output;
static const struct program *now;
static const struct area *areas;
static uint64_t seen;

/* No library call and no thread-local storage in the handler: tp and gp belong to the program. */
static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d, a4 __asm__("a4") = e, a5 __asm__("a5") = f;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall"
                     : "+r"(a0)
                     : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7)
                     : "memory");
    return a0;
}

static void put(const void *from, uint64_t size)
{
    const char *at = from;
    while (size) {
        long done = call(WRITE, output, (long)at, size, 0, 0, 0);
        if (done <= 0)
            call(EXIT, 4, 0, 0, 0, 0, 0);
        at += done;
        size -= done;
    }
}

static void finish(void)
{
    for (uint64_t i = 0; i < now->areas; i++) {
        if (areas[i].protection & WRITABLE)
            put((void *)areas[i].start, areas[i].size);
        call(UNMAP, areas[i].start, areas[i].size, 0, 0, 0, 0);
    }
}

static void begin(uint64_t *registers, ucontext_t *user)
{
    if (!left--)
        call(EXIT, 0, 0, 0, 0, 0, 0);
    now = (const struct program *)input;
    areas = (const struct area *)(now + 1);
    input = (const char *)(areas + now->areas);
    seen = 0;
    for (uint64_t i = 0; i < now->areas; i++) {
        const struct area *area = &areas[i];
        long flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        if (call(MAP, area->start, area->size, 3, flags, -1, 0) != (long)area->start)
            call(EXIT, 3, 0, 0, 0, 0, 0);
        for (uint64_t at = 0; at < area->size; at += 8)
            *(uint64_t *)(area->start + at) = *(const uint64_t *)(input + at);
        input += area->size;
        call(PROTECT, area->start, area->size, area->protection, 0, 0, 0);
    }
    __asm__ volatile("fence.i" ::: "memory");
    registers[0] = now->pc;
    for (int i = 1; i < 32; i++)
        registers[i] = now->x[i];
    for (int i = 0; i < 32; i++)
        user->uc_mcontext.__fpregs.__d.__f[i] = now->f[i];
    user->uc_mcontext.__fpregs.__d.__fcsr = now->fcsr;
}

static void handler(int number, siginfo_t *info, void *context)
{
    ucontext_t *user = context;
    uint64_t *registers = (uint64_t *)user->uc_mcontext.__gregs;
    uint64_t pc = registers[0];
    if (now) {
        struct moment moment;
        moment.signal = number;
        moment.code = info->si_code;
        moment.address = (uint64_t)info->si_addr;
        moment.pc = pc;
        moment.x[0] = 0;
        for (int i = 1; i < 32; i++)
            moment.x[i] = registers[i];
        for (int i = 0; i < 32; i++)
            moment.f[i] = user->uc_mcontext.__fpregs.__d.__f[i];
        moment.fcsr = user->uc_mcontext.__fpregs.__d.__fcsr;
        moment.more = pc != now->end && ++seen != now->most;
        put(&moment, sizeof moment);
        if (moment.more) {
            int nowhere = number == SEGV && pc - areas[0].start >= areas[0].size;
            if (nowhere)
                registers[0] = now->resume;
            else
                registers[0] += (*(uint16_t *)pc & 3) == 3 ? 4 : 2;
            return;
        }
        finish();
    }
    begin(registers, user);
}

int main(int argc, char **argv)
{
    struct stat status;
    int file = argc == 3 ? open(argv[1], O_RDONLY) : -1;
    if (file < 0 || fstat(file, &status))
        return 2;
    output = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    input = mmap(0, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (output < 0 || input == MAP_FAILED)
        return 2;
    left = *(const uint64_t *)input;
    input += 8;
    static uint8_t stack[65536];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternative, 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    for (int number = SIGILL; number <= SIGSEGV; number++)
        sigaction(number, &action, 0);
    __asm__ volatile("ebreak");
    return 3;
}

/* Signals: handlers with siginfo, masks and pending, nesting, alternate stacks, timers, faults mended. */
#include "check.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t ticks, order;
static char *page;
static sigjmp_buf back;
static void note(int signo, siginfo_t *info, void *context) {
    (void)context;
    int saved = errno;
    printf("signal %d code %d order %d\n", signo, info->si_code, (int)order++);
    errno = saved;
}
static void queued(int signo, siginfo_t *info, void *context) {
    (void)context;
    printf("queued %d value %d\n", signo, info->si_value.sival_int);
}
static void tick(int signo) { (void)signo; ticks++; }
static void mend(int signo, siginfo_t *info, void *context) {
    (void)context;
    printf("fault %d code %d offset %ld\n", signo, info->si_code, (long)((char *)info->si_addr - page));
    mprotect(page, 4096, PROT_READ | PROT_WRITE); /* the store is tried again and succeeds */
}
static void escape(int signo, siginfo_t *info, void *context) {
    (void)context;
    char local;
    stack_t stack;
    sigaltstack(NULL, &stack);
    int inside = &local >= (char *)stack.ss_sp && &local < (char *)stack.ss_sp + stack.ss_size;
    printf("escape %d code %d on alternate stack %d\n", signo, info->si_code, inside);
    siglongjmp(back, 1);
}
static void set(int signo, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigaction(signo, &action, NULL);
}
static void *waiter(void *set) {
    int signo = 0;
    sigwait(set, &signo);
    printf("sigwait %d\n", signo);
    return NULL;
}
static double __attribute__((noipa)) busy(int n) { double s = 0; for (int i = 1; i < n; i++) s += 1.0 / i; return s; }

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    set(SIGUSR1, note, 0); set(SIGUSR2, note, 0);
    raise(SIGUSR1);
    kill(getpid(), SIGUSR2);
    sigset_t mask, old, pending;
    sigemptyset(&mask); sigaddset(&mask, SIGUSR1); sigaddset(&mask, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &mask, &old);
    raise(SIGUSR1); raise(SIGUSR1);
    sigpending(&pending);
    printf("pending %d %d\n", sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2));
    set(SIGRTMIN, queued, 0);
    for (int i = 1; i <= 3; i++) sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i * 11});
    sigprocmask(SIG_SETMASK, &old, NULL);

    page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    set(SIGSEGV, mend, 0);
    page[123] = 7;
    printf("mended %d\n", page[123]);
    static char alternate[65536];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, NULL);
    set(SIGSEGV, escape, SA_ONSTACK); set(SIGILL, escape, SA_ONSTACK); set(SIGTRAP, escape, SA_ONSTACK);
    munmap(page, 8192);
    if (!sigsetjmp(back, 1)) *(volatile char *)page = 1;
    if (!sigsetjmp(back, 1)) ((void (*)(void))(uintptr_t)0x10)();
#ifdef __riscv
    if (!sigsetjmp(back, 1)) __asm__ volatile(".half 0");
    if (!sigsetjmp(back, 1)) __asm__ volatile("ebreak");
#endif
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &every, NULL);
    double expected = busy(100000); /* interrupted often, never changed */
    int same = 1;
    for (int i = 0; i < 20000 && ticks < 5; i++) same &= busy(100000) == expected;
    printf("ticks enough %d same %d\n", ticks >= 5, same);
    int fds[2];
    char byte = 0;
    pipe(fds);
    if (!fork()) { setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL); usleep(30000); write(fds[1], "x", 1); _exit(0); }
    printf("restarted read %zd %c\n", read(fds[0], &byte, 1), byte);
    action.sa_flags = 0;
    sigaction(SIGALRM, &action, NULL);
    printf("read %zd interrupted %d\n", read(fds[0], &byte, 1), errno == EINTR);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    sigemptyset(&mask); sigaddset(&mask, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, waiter, &mask);
    kill(getpid(), SIGTERM);
    pthread_join(thread, NULL);
    set(SIGUSR1, note, SA_RESETHAND);
    raise(SIGUSR1);
    sigaction(SIGUSR1, NULL, &action);
    printf("reset %d\n", action.sa_handler == SIG_DFL);
    fflush(stdout);
    raise(SIGUSR1); /* the default: this ends the program */
    return 99;
}

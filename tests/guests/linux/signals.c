// Signals in all their ways; prints what a handler sees so that two kernels can be compared.
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int seen, depth, order;
static volatile uintptr_t fault_at;

static void say(const char *what, long value) { printf("%s %ld\n", what, value); }

static void on_info(int signo, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    seen = signo;
    printf("handler %d code %d", signo, info->si_code);
    if (signo == SIGSEGV || signo == SIGBUS)
        printf(" offset %ld", (long)((uintptr_t)info->si_addr - fault_at));
    if (info->si_code == SI_QUEUE) printf(" value %d", info->si_value.sival_int);
    if (info->si_code == SI_QUEUE || info->si_code == SI_USER || info->si_code == SI_TKILL)
        printf(" own %d uid %d", info->si_pid == getpid(), info->si_uid == getuid());
    printf(" pc-in-text %d\n", uc->uc_mcontext.__gregs[0] != 0);
}

static void on_fault(int signo, siginfo_t *info, void *context) {
    on_info(signo, info, context);
    siglongjmp(back, 1);
}

static void install(int signo, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {0};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    sigaction(signo, &action, NULL);
}

static void faults(void) {
    install(SIGSEGV, on_fault, 0);
    install(SIGBUS, on_fault, 0);
    install(SIGILL, on_fault, 0);
    install(SIGTRAP, on_fault, 0);
    fault_at = 0x10;
    if (!sigsetjmp(back, 1)) *(volatile int *)0x10 = 1;
    if (!sigsetjmp(back, 1)) (void)*(volatile int *)0x10;
    char *page = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fault_at = (uintptr_t)page;
    if (!sigsetjmp(back, 1)) page[5] = 1;
    munmap(page + 4096, 4096);
    if (!sigsetjmp(back, 1)) (void)*(volatile char *)(page + 4096);
    // An access across the edge of two pages faults at the second.
    if (!sigsetjmp(back, 1)) (void)*(volatile long *)(page + 4092);
    if (!sigsetjmp(back, 1)) ((void (*)(void))page)();
    fault_at = 0;
    if (!sigsetjmp(back, 1)) ((void (*)(void))0)();
    if (!sigsetjmp(back, 1)) asm volatile(".4byte 0x0000007f");
    if (!sigsetjmp(back, 1)) asm volatile("ebreak");
    if (!sigsetjmp(back, 1)) asm volatile("csrw 0x180, zero");
    FILE *file = tmpfile();
    ftruncate(fileno(file), 4096);
    char *map = mmap(0, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);
    ftruncate(fileno(file), 0);
    fault_at = (uintptr_t)map;
    if (!sigsetjmp(back, 1)) (void)*(volatile char *)(map + 3);
    sigset_t now;
    sigprocmask(0, NULL, &now);
    say("segv still unblocked", !sigismember(&now, SIGSEGV));
}

static void on_repair(int signo, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    (void)signo; (void)info;
    // The faulting load was "lw a0, 0(a5)": leave the answer and step over it.
    uc->uc_mcontext.__gregs[REG_A0] = 1234;
    uc->uc_mcontext.__gregs[0] += 4;
    seen++;
}

static void registers(void) {
    install(SIGSEGV, on_repair, 0);
    register long a0 asm("a0") = 0;
    register long t3 asm("t3") = 0x1122334455667788;
    double kept = 3.25;
    asm volatile(".option push\n.option norvc\nli a5, 0\nlw a0, 0(a5)\n.option pop"
                 : "+r"(a0), "+r"(t3), "+f"(kept)::"a5");
    say("repaired", a0);
    say("t3 kept", t3 == 0x1122334455667788);
    say("float kept", kept == 3.25);
}

static void on_float(int signo, siginfo_t *info, void *context) {
    (void)signo; (void)info; (void)context;
    fesetround(FE_UPWARD);
    volatile double one = 1, three = 3;
    volatile double third = one / three;
    (void)third;
    seen++;
}

static void floats(void) {
    install(SIGUSR1, on_float, 0);
    fesetround(FE_DOWNWARD);
    feclearexcept(FE_ALL_EXCEPT);
    raise(SIGUSR1);
    say("rounding restored", fegetround() == FE_DOWNWARD);
    say("flags restored", fetestexcept(FE_INEXACT));
    fesetround(FE_TONEAREST);
}

static void on_nest(int signo, siginfo_t *info, void *context) {
    (void)info; (void)context;
    printf("enter %d depth %d\n", signo, depth);
    depth++;
    if (signo == SIGUSR1 && depth < 3 && order < 20) raise(signo);
    if (signo == SIGUSR2) raise(SIGUSR1);
    depth--;
    printf("leave %d order %d\n", signo, order++);
}

static void nesting(void) {
    install(SIGUSR1, on_nest, 0);
    raise(SIGUSR1);
    install(SIGUSR1, on_nest, SA_NODEFER);
    raise(SIGUSR1);
    install(SIGUSR2, on_nest, 0);
    raise(SIGUSR2);
    install(SIGUSR1, on_info, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction now;
    sigaction(SIGUSR1, NULL, &now);
    say("reset", now.sa_handler == SIG_DFL);
}

static char alternate[65536];

static void on_stack(int signo, siginfo_t *info, void *context) {
    (void)info; (void)context;
    char here;
    stack_t now;
    sigaltstack(NULL, &now);
    printf("signal %d on alternate stack %d flags %d\n", signo,
           &here >= alternate && &here < alternate + sizeof alternate, now.ss_flags);
    stack_t other = {.ss_sp = alternate, .ss_size = 8192};
    printf("change while on it %d errno %d\n", sigaltstack(&other, NULL), errno);
}

static void overflow(int level) {
    volatile char room[4096];
    room[0] = level;
    overflow(level + 1);
    room[1] = room[0];
}

static void on_overflow(int signo, siginfo_t *info, void *context) {
    (void)info; (void)context;
    char here;
    printf("overflow signal %d on alternate stack %d\n", signo,
           &here >= alternate && &here < alternate + sizeof alternate);
    siglongjmp(back, 1);
}

static void alternates(void) {
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, old;
    sigaltstack(&stack, &old);
    say("old flags", old.ss_flags);
    install(SIGUSR1, on_stack, SA_ONSTACK);
    raise(SIGUSR1);
    install(SIGUSR1, on_stack, 0);
    raise(SIGUSR1);
    install(SIGSEGV, on_overflow, SA_ONSTACK);
    if (!sigsetjmp(back, 1)) overflow(0);
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
    sigaltstack(NULL, &old);
    say("disabled flags", old.ss_flags);
    stack.ss_flags = 0;
    stack.ss_size = 100;
    say("too small", sigaltstack(&stack, NULL));
    say("errno", errno);
}

static void blocking(void) {
    sigset_t set, old, pending;
    install(SIGUSR1, on_info, 0);
    install(SIGRTMIN + 3, on_info, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &set, &old);
    seen = 0;
    raise(SIGUSR1);
    raise(SIGUSR1);
    for (int i = 0; i < 3; i++) sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = i});
    say("not yet", seen);
    sigpending(&pending);
    say("pending usr1", sigismember(&pending, SIGUSR1));
    say("pending usr2", sigismember(&pending, SIGUSR2));
    sigprocmask(SIG_SETMASK, &old, NULL);
    say("last", seen);

    // sigsuspend lets it in and puts the mask back.
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR1);
    say("suspend", sigsuspend(&old));
    say("errno", errno == EINTR);
    sigprocmask(0, NULL, &pending);
    say("blocked again", sigismember(&pending, SIGUSR1));

    // sigtimedwait takes it without a handler.
    raise(SIGUSR1);
    siginfo_t info;
    say("waited for", sigwaitinfo(&set, &info));
    say("code", info.si_code);
    struct timespec soon = {0, 1000000};
    say("timed out", sigtimedwait(&set, &info, &soon));
    say("errno", errno == EAGAIN);

    // signalfd.
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    raise(SIGUSR1);
    struct signalfd_siginfo got;
    say("signalfd size", read(fd, &got, sizeof got));
    say("signalfd signo", got.ssi_signo);
    close(fd);

    // ppoll with a mask.
    raise(SIGUSR1);
    struct timespec second = {1, 0};
    say("ppoll", ppoll(NULL, 0, &second, &old));
    say("errno", errno == EINTR);
    sigprocmask(0, NULL, &pending);
    say("blocked after ppoll", sigismember(&pending, SIGUSR1));
    raise(SIGUSR1);
    say("pselect", pselect(0, NULL, NULL, NULL, &second, &old));
    say("errno", errno == EINTR);
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void tick(int signo) { (void)signo; seen++; }

static void restarting(void) {
    int pipes[2];
    char byte;
    pipe(pipes);
    struct itimerval once = {.it_value = {0, 20000}};
    struct sigaction action = {0};
    action.sa_handler = tick;
    sigaction(SIGALRM, &action, NULL);
    seen = 0;
    setitimer(ITIMER_REAL, &once, NULL);
    say("read", read(pipes[0], &byte, 1));
    say("errno", errno == EINTR);
    say("ticks", seen);

    // With SA_RESTART the read goes on until the child writes.
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    if (fork() == 0) {
        usleep(120000);
        write(pipes[1], "x", 1);
        _exit(0);
    }
    setitimer(ITIMER_REAL, &once, NULL);
    say("read", read(pipes[0], &byte, 1));
    say("ticks", seen);
    wait(NULL);

    // A sleep ends with the time that is left.
    struct timespec request = {5, 0}, rest = {0, 0};
    setitimer(ITIMER_REAL, &once, NULL);
    say("sleep", nanosleep(&request, &rest));
    say("rest", rest.tv_sec == 4);
    setitimer(ITIMER_REAL, &once, NULL);
    say("poll", poll(NULL, 0, 5000));
    say("errno", errno == EINTR);
    say("ticks", seen);
}

static void inheritance(void) {
    signal(SIGUSR2, SIG_IGN);
    struct sigaction now;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    fflush(stdout);
    if (fork() == 0) {
        sigset_t pending;
        sigpending(&pending);
        say("child pending", sigismember(&pending, SIGUSR1));
        sigaction(SIGUSR2, NULL, &now);
        say("child ignores", now.sa_handler == SIG_IGN);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    sigset_t pending;
    sigpending(&pending);
    say("parent pending", sigismember(&pending, SIGUSR1));
    signal(SIGUSR1, SIG_IGN);
    sigpending(&pending);
    say("ignored drops it", sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void deaths(void) {
    int signals[] = {SIGTERM, SIGKILL, SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGPIPE, SIGRTMIN + 2};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            signal(signals[i], SIG_DFL);
            fclose(stderr);
            close(2);
            raise(signals[i]);
            _exit(9);
        }
        waitpid(child, &status, 0);
        printf("death by %d: signalled %d by %d\n", signals[i], WIFSIGNALED(status),
               WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    }
    pid_t child = fork();
    if (child == 0) for (;;) pause();
    int status;
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    say("stopped", WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    kill(child, SIGCONT);
    waitpid(child, &status, WCONTINUED);
    say("continued", WIFCONTINUED(status));
    kill(child, SIGTERM);
    siginfo_t info;
    waitid(P_PID, child, &info, WEXITED);
    printf("waitid code %d status %d\n", info.si_code, info.si_status);
}

static void *target(void *argument) {
    sigset_t set;
    int got;
    (void)argument;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigwait(&set, &got);
    return (void *)(long)got;
}

static void threads(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, target, NULL);
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, &result);
    say("thread got", (long)result);
    pthread_create(&thread, NULL, (void *(*)(void *))pause, NULL);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    say("cancelled", result == PTHREAD_CANCELED);
}

static timer_t timer;
static void on_timer(int signo, siginfo_t *info, void *context) {
    (void)context;
    printf("timer signal %d code %d value %d\n", signo, info->si_code, info->si_value.sival_int);
    seen = 77;
}

static void timers(void) {
    struct sigevent event = {0};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN + 5;
    event.sigev_value.sival_int = 4711;
    install(SIGRTMIN + 5, on_timer, 0);
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    struct itimerspec soon = {.it_value = {0, 5000000}};
    timer_settime(timer, 0, &soon, NULL);
    while (seen != 77) pause();
    timer_delete(timer);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct { const char *name; void (*run)(void); } parts[] = {
        {"faults", faults}, {"registers", registers}, {"floats", floats}, {"nesting", nesting},
        {"alternates", alternates}, {"blocking", blocking}, {"restarting", restarting},
        {"inheritance", inheritance}, {"deaths", deaths}, {"threads", threads},
        {"timers", timers},
    };
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++)
        if (argc < 2 || !strcmp(argv[1], parts[i].name)) {
            printf("== %s\n", parts[i].name);
            parts[i].run();
        }
    return 0;
}

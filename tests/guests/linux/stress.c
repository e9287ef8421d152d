// Threads, signals, forks and mappings at the same time; says what was lost.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 6 };
static atomic_long ticks, pokes, bad;
static atomic_int going = 1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long locked;
static pthread_t ids[THREADS];

#define CHECK(condition) do { if (!(condition)) { bad++; \
    dprintf(1, "line %d failed: %s errno %d\n", __LINE__, #condition, errno); } } while (0)

static void on_tick(int signo) {
    // The handler itself makes calls and floats: both have to be put back.
    volatile double x = ticks;
    x /= 3;
    int before = errno;
    getppid();
    errno = before;
    (void)signo;
    ticks++;
}
static void on_poke(int signo, siginfo_t *info, void *context) {
    (void)signo; (void)context;
    if (info->si_pid == getpid()) pokes++;
}

static void *computes(void *argument) {
    long seed = (long)argument;
    while (going) {
        double sum = 0;
        for (int i = 1; i < 20000; i++) sum += 1.0 / i;
        CHECK(sum > 10.4 && sum < 10.5);
        pthread_mutex_lock(&mutex);
        locked++;
        pthread_mutex_unlock(&mutex);
        seed++;
    }
    return NULL;
}
static void *maps(void *argument) {
    (void)argument;
    while (going) {
        size_t size = 4096 * (1 + rand() % 64);
        char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(at != MAP_FAILED);
        memset(at, 7, size);
        CHECK(at[size - 1] == 7);
        CHECK(mprotect(at, 4096, PROT_READ) == 0);
        CHECK(munmap(at, size) == 0);
        free(memset(malloc(size), 1, size));
    }
    return NULL;
}
static void *forks(void *argument) {
    (void)argument;
    while (going) {
        pid_t child = fork();
        if (child == 0) {
            volatile long x = 0;
            for (int i = 0; i < 1000; i++) x += i;
            _exit(x == 499500 ? 17 : 1);
        }
        CHECK(child > 0);
        int status;
        pid_t got;
        while ((got = waitpid(child, &status, 0)) == -1 && errno == EINTR) ;
        CHECK(got == child && WIFEXITED(status) && WEXITSTATUS(status) == 17);
    }
    return NULL;
}
static void *pipes(void *argument) {
    (void)argument;
    int fds[2];
    pipe(fds);
    unsigned long sent = 0, received;
    while (going) {
        ssize_t n;
        while ((n = write(fds[1], &sent, 8)) == -1 && errno == EINTR) ;
        CHECK(n == 8);
        while ((n = read(fds[0], &received, 8)) == -1 && errno == EINTR) ;
        CHECK(n == 8 && received == sent);
        sent++;
    }
    return NULL;
}
static void *pokes_others(void *argument) {
    long sent = 0;
    (void)argument;
    while (going) {
        siginfo_t info = {.si_code = SI_QUEUE, .si_pid = getpid(), .si_uid = getuid()};
        if (syscall(SYS_rt_sigqueueinfo, getpid(), SIGRTMIN + 1, &info) == 0) sent++;
        usleep(500);
    }
    return (void *)sent;
}
static void *starts(void *argument) {
    (void)argument;
    while (going) {
        pthread_t id;
        void *result;
        CHECK(pthread_create(&id, NULL, (void *(*)(void *))labs, (void *)-5L) == 0);
        pthread_join(id, &result);
        CHECK(result == (void *)5L);
    }
    return NULL;
}

int main(int argc, char **argv) {
    int ms = argc > 1 ? atoi(argv[1]) : 1000;
    struct sigaction action = {0};
    action.sa_handler = on_tick;
    sigaction(SIGALRM, &action, NULL);
    action.sa_sigaction = on_poke;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGRTMIN + 1, &action, NULL);
    void *(*bodies[])(void *) = {computes, maps, forks, pipes, pokes_others, starts};
    struct itimerval often = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &often, NULL);
    for (long i = 0; i < THREADS; i++) pthread_create(&ids[i], NULL, bodies[i], (void *)i);
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += ms % 1000 * 1000000L;
    end.tv_sec += ms / 1000 + end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR);
    going = 0;
    void *sent = NULL, *result;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(ids[i], &result);
        if (bodies[i] == pokes_others) sent = result;
    }
    memset(&often, 0, sizeof often);
    setitimer(ITIMER_REAL, &often, NULL);
    usleep(1000);
    printf("lost %ld bad %ld ticked %d locked %d\n", (long)sent - pokes, bad, ticks > 10, locked > 0);
    return 0;
}

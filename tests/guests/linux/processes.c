// Processes and threads: clone in its forms, exec, exit, futexes, limits of what vfork shares.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAY(call) do { errno = 0; long r = (long)(call); \
    printf("%-60s %ld errno %d\n", #call, r, r < 0 ? errno : 0); } while (0)
#define IS(call) printf("%-60s %d\n", #call, !!(call))
#define DIE(call) do { fflush(stdout); pid_t c_ = fork(); if (!c_) { call; _exit(99); } \
    int s_; waitpid(c_, &s_, 0); printf("%-60s exit %d signal %d\n", #call, \
    WIFEXITED(s_) ? WEXITSTATUS(s_) : -1, WIFSIGNALED(s_) ? WTERMSIG(s_) : 0); } while (0)

static char self[4096];
extern char **environ;

static void *sleeper(void *argument) { for (;;) pause(); return argument; }
static void *leave(void *argument) { _exit((int)(long)argument); }
static void *thread_exec(void *argument) {
    char *words[] = {self, "report", argument, NULL};
    execv(self, words);
    _exit(98);
}
static void *quit_last(void *argument) { usleep(20000); syscall(SYS_exit, 5); return argument; }

static void group_exit(void) {
    pthread_t t;
    for (int i = 0; i < 3; i++) pthread_create(&t, NULL, sleeper, NULL);
    pthread_create(&t, NULL, leave, (void *)42L);
    pause();
}
static void exec_from_thread(void) {
    pthread_t t;
    for (int i = 0; i < 3; i++) pthread_create(&t, NULL, sleeper, NULL);
    pthread_create(&t, NULL, thread_exec, "from-a-thread");
    pause();
}
static void exec_with_threads(void) {
    pthread_t t;
    for (int i = 0; i < 3; i++) pthread_create(&t, NULL, sleeper, NULL);
    thread_exec("with-threads");
}
static void leader_first(void) {
    pthread_t t;
    pthread_create(&t, NULL, quit_last, NULL);
    syscall(SYS_exit, 7);
}
static void fork_in_thread_body(void) {
    pid_t child = fork();
    if (!child) {
        pthread_t t;
        pthread_create(&t, NULL, leave, (void *)33L);
        pthread_join(t, NULL);
    }
    int status;
    waitpid(child, &status, 0);
    _exit(WEXITSTATUS(status) + 1);
}
static void *fork_in_thread(void *argument) { fork_in_thread_body(); return argument; }
static void fork_from_thread(void) {
    pthread_t t;
    pthread_create(&t, NULL, fork_in_thread, NULL);
    pause();
}
static void killed_in_thread(void) {
    pthread_t t;
    close(2);
    pthread_create(&t, NULL, (void *(*)(void *))abort, NULL);
    pause();
}

static int handled;
static void handler(int signo) { handled = signo; }

static void report(const char *how) {
    struct sigaction action;
    sigset_t mask;
    sigaction(SIGUSR1, NULL, &action);
    IS(action.sa_handler == SIG_DFL);
    sigaction(SIGUSR2, NULL, &action);
    IS(action.sa_handler == SIG_IGN);
    sigprocmask(0, NULL, &mask);
    printf("report %s masked %d pid-is-tid %d fd50 %d fd51 %d timer %d\n", how,
           sigismember(&mask, SIGHUP), getpid() == syscall(SYS_gettid), fcntl(50, F_GETFD),
           fcntl(51, F_GETFD), timer_delete((timer_t)0));
    struct itimerval left;
    getitimer(ITIMER_REAL, &left);
    IS(left.it_value.tv_sec > 100);
}

static void ending(void) {
    DIE(group_exit());
    DIE(leader_first());
    DIE(fork_from_thread());
    DIE(killed_in_thread());
    DIE(_exit(256 + 3));
    DIE(*(volatile int *)8 = 1);
    DIE(raise(SIGTERM));
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    dup2(1, 50);
    fcntl(dup2(1, 51), F_SETFD, FD_CLOEXEC);
    struct itimerval far = {.it_value = {1000, 0}};
    fflush(stdout);
    if (fork() == 0) {
        setitimer(ITIMER_REAL, &far, NULL);
        timer_t timer;
        timer_create(CLOCK_MONOTONIC, NULL, &timer);
        thread_exec("plain");
    }
    wait(NULL);
    if (fork() == 0) { setitimer(ITIMER_REAL, &far, NULL); exec_from_thread(); }
    wait(NULL);
    if (fork() == 0) { setitimer(ITIMER_REAL, &far, NULL); exec_with_threads(); }
    wait(NULL);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void exec_errors(void) {
    char *words[] = {"x", NULL};
    SAY(execv("/nonexistent", words));
    SAY(execv("/", words));
    SAY(execv("/dev/null", words));
    SAY(execv((char *)16, words));
    SAY(execv(self, (char **)16));
    char name[] = "/tmp/guest-script-XXXXXX";
    int fd = mkstemp(name);
    dprintf(fd, "garbage that is no program\n");
    SAY(execv(name, words));
    fchmod(fd, 0755);
    close(fd);
    SAY(execv(name, words));
    fd = open(name, O_WRONLY | O_TRUNC);
    dprintf(fd, "#!/nonexistent/interpreter\n");
    close(fd);
    SAY(execv(name, words));
    fd = open(name, O_WRONLY | O_TRUNC);
    dprintf(fd, "#!%s script one two \nrest\n", self);
    close(fd);
    char *more[] = {"zero", "first", "second", NULL};
    fflush(stdout);
    if (fork() == 0) { execv(name, more); _exit(1); }
    wait(NULL);
    unlink(name);
    char *huge = malloc(200000), *large[] = {"x", huge, NULL};
    memset(huge, 'h', 199999);
    huge[199999] = 0;
    SAY(execv(self, large));
    pid_t child;
    SAY(posix_spawn(&child, "/nonexistent", NULL, NULL, words, environ));
    SAY(posix_spawnp(&child, "no-such-program-anywhere", NULL, NULL, words, environ));
    volatile int changed = 0;
    if (vfork() == 0) { changed = 5; _exit(0); }
    wait(NULL);
    printf("vfork changed %d\n", changed);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static int total, turn;
static __thread int own = 100;

static void *worker(void *argument) {
    int id = (int)(long)argument;
    own += id;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != id) pthread_cond_wait(&condition, &mutex);
        total += id;
        turn = (turn + 1) % 4;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    return (void *)(long)own;
}

static void *die_with_lock(void *lock) { pthread_mutex_lock(lock); return NULL; }

static void threads(void) {
    pthread_t ids[4];
    pthread_barrier_init(&barrier, NULL, 4);
    for (long i = 0; i < 4; i++) pthread_create(&ids[i], NULL, worker, (void *)i);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(ids[i], &result);
        printf("thread %d gave %ld\n", i, (long)result);
    }
    printf("total %d own %d\n", total, own);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_t robust;
    pthread_mutex_init(&robust, &attributes);
    pthread_create(&ids[0], NULL, die_with_lock, &robust);
    pthread_join(ids[0], NULL);
    IS(pthread_mutex_lock(&robust) == EOWNERDEAD);
    SAY(pthread_mutex_consistent(&robust));
    SAY(pthread_mutex_unlock(&robust));
    sem_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_init(shared, 1, 0);
    if (fork() == 0) { usleep(10000); sem_post(shared); _exit(0); }
    SAY(sem_wait(shared));
    wait(NULL);
    int word = 5;
    struct timespec soon = {0, 1000000};
    SAY(syscall(SYS_futex, &word, FUTEX_WAIT, 5, &soon, NULL, 0));
    SAY(syscall(SYS_futex, &word, FUTEX_WAIT, 6, NULL, NULL, 0));
    SAY(syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0));
    SAY(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAIT, 5, &soon, NULL, 0));
    SAY(syscall(SYS_futex, 16, FUTEX_WAIT, 5, NULL, NULL, 0));
    cpu_set_t cpus;
    IS(sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) > 0);
    SAY(sched_yield());
    SAY(syscall(SYS_clone, CLONE_THREAD, 0, 0, 0, 0));
    SAY(syscall(SYS_set_robust_list, 0, 5));
    for (int i = 0; i < 100; i++) {
        pthread_create(&ids[0], NULL, (void *(*)(void *))getpid, NULL);
        pthread_join(ids[0], NULL);
    }
}

static void identity(void) {
    struct utsname name;
    uname(&name);
    printf("%s\n", name.sysname);
    char comm[16];
    SAY(prctl(PR_SET_NAME, "renamed thread with a long name"));
    prctl(PR_GET_NAME, comm);
    printf("%s\n", comm);
    struct rusage usage;
    SAY(getrusage(RUSAGE_SELF, &usage));
    struct tms tms;
    IS(times(&tms) > 0);
    struct timespec now, again, resolution;
    SAY(clock_gettime(CLOCK_MONOTONIC, &now));
    struct timespec ms = {0, 2000000};
    SAY(clock_nanosleep(CLOCK_MONOTONIC, 0, &ms, NULL));
    clock_gettime(CLOCK_MONOTONIC, &again);
    IS((again.tv_sec - now.tv_sec) * 1000000000L + again.tv_nsec - now.tv_nsec >= 2000000);
    SAY(clock_getres(CLOCK_REALTIME, &resolution));
    SAY(clock_gettime(999, &now));
    struct timeval tv;
    SAY(gettimeofday(&tv, NULL));
    IS(tv.tv_sec > 1600000000);
    IS(getpgrp() == getpgid(0) && getsid(0) > 0);
    struct rlimit limit;
    SAY(getrlimit(RLIMIT_NOFILE, &limit));
    IS(limit.rlim_cur >= 256);
    limit.rlim_cur = 64;
    SAY(setrlimit(RLIMIT_NOFILE, &limit));
    SAY(dup2(1, 64));
    SAY(getpriority(PRIO_PROCESS, 0));
    char random[16];
    SAY(syscall(SYS_getrandom, random, 16, 0));
    SAY(syscall(999));
    IS(getenv("PATH") != NULL);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    readlink("/proc/self/exe", self, sizeof self - 1);
    if (argc > 2 && !strcmp(argv[1], "report")) { report(argv[2]); return 0; }
    if (argc > 2 && !strncmp(argv[1], "script", 6)) {
        printf("as a script:");
        for (int i = 1; i < argc; i++)
            printf(" [%s]", strncmp(argv[i], "/tmp/", 5) ? argv[i] : "NAME");
        printf("\n");
        return 0;
    }
    ending(); exec_errors(); threads(); identity();
    return 0;
}

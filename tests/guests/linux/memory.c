// Memory calls: mmap in all its ways, brk, mremap, protection, sharing across fork.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(call) do { errno = 0; long r = (long)(call); \
    printf("%-60s %s errno %d\n", #call, r == -1 ? "-1" : "ok", r == -1 ? errno : 0); } while (0)
#define IS(call) printf("%-60s %d\n", #call, !!(call))
#define P 4096
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)

static sigjmp_buf back;
static void on_fault(int signo) { siglongjmp(back, signo); }
static int touch(volatile char *at) {
    int signo = sigsetjmp(back, 1);
    if (!signo) *at = 1;
    return signo;
}
static int look(volatile char *at) {
    int signo = sigsetjmp(back, 1);
    if (!signo) (void)*at;
    return signo;
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);

    char *a = mmap(NULL, 4 * P, RW, ANON, -1, 0);
    IS(a != MAP_FAILED && ((uintptr_t)a & (P - 1)) == 0);
    IS(a[0] == 0 && a[4 * P - 1] == 0);
    memset(a, 'a', 4 * P);
    SAY(mmap(NULL, 0, RW, ANON, -1, 0));
    SAY(mmap(NULL, P, RW, MAP_ANONYMOUS, -1, 0));
    SAY(mmap(NULL, P, RW, MAP_PRIVATE, 99, 0));
    SAY(mmap(NULL, P, RW, MAP_PRIVATE, 0, 1));
    SAY(mmap((void *)1, P, RW, ANON | MAP_FIXED, -1, 0));
    SAY(mmap(NULL, 1L << 60, RW, ANON, -1, 0));
    SAY(mmap(a, P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    IS(mmap(a + P, P, RW, ANON | MAP_FIXED, -1, 0) == a + P);
    IS(a[P] == 0 && a[0] == 'a' && a[2 * P] == 'a');
    char *hint = (char *)0x2000000000;
    IS(mmap(hint, P, RW, ANON, -1, 0) == hint);

    SAY(mprotect(a, P, PROT_READ));
    IS(touch(a) == SIGSEGV && a[0] == 'a');
    SAY(mprotect(a, P, PROT_NONE));
    IS(look(a) == SIGSEGV);
    SAY(mprotect(a, P, RW));
    IS(touch(a) == 0);
    SAY(mprotect(a + 1, P, RW));
    SAY(mprotect(a, 100 * P, RW | 0x1000));
    SAY(munmap(a + 2 * P, P));
    IS(look(a + 2 * P) == SIGSEGV && look(a + 3 * P) == 0);
    SAY(mprotect(a, 4 * P, RW));
    SAY(munmap(a + 1, P));
    SAY(munmap(a, 0));
    SAY(munmap(a + 2 * P, P));

    // mremap.
    char *b = mmap(NULL, 2 * P, RW, ANON, -1, 0);
    b[0] = 'b';
    b[P] = 'B';
    char *c = mremap(b, 2 * P, 64 * P, MREMAP_MAYMOVE);
    IS(c != MAP_FAILED && c[0] == 'b' && c[P] == 'B' && c[63 * P] == 0);
    IS(mremap(c, 64 * P, P, 0) == c && look(c + P) == SIGSEGV);
    char *d = mmap(NULL, 8 * P, PROT_NONE, ANON, -1, 0);
    IS(mremap(c, P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, d + P) == d + P);
    IS(d[P] == 'b' && look(c) == SIGSEGV && look(d) == SIGSEGV);
    SAY(mremap(d + P, P, P, MREMAP_FIXED));
    SAY(mremap(d + 100, P, P, 0));
    SAY(mremap((void *)0x3000000000, P, 2 * P, MREMAP_MAYMOVE));

    // Files.
    char name[] = "/tmp/guest-memory-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    ftruncate(fd, 2 * P);
    char *s = mmap(NULL, 3 * P, RW, MAP_SHARED, fd, 0);
    char *p = mmap(NULL, 2 * P, RW, MAP_PRIVATE, fd, 0);
    strcpy(s + P, "through the file");
    IS(strcmp(p + P, "through the file") == 0);
    strcpy(p, "mine alone");
    IS(s[0] == 0);
    char text[20] = "";
    pread(fd, text, 16, P);
    printf("%s\n", text);
    IS(look(s + 2 * P) == SIGBUS);
    SAY(msync(s, 2 * P, MS_SYNC));
    SAY(msync(s + 1, P, MS_SYNC));
    SAY(msync((void *)0x3000000000, P, MS_ASYNC));
    int ro = open("/proc/self/exe", O_RDONLY);
    SAY(mmap(NULL, P, RW, MAP_SHARED, ro, 0));
    IS(memcmp(mmap(NULL, P, PROT_READ, MAP_PRIVATE, ro, 0), "\177ELF", 4) == 0);

    // brk.
    char *start = sbrk(0);
    IS(sbrk(10 * P) == start);
    start[10 * P - 1] = 1;
    IS(sbrk(-5 * P) == start + 10 * P);
    IS(sbrk(0) == start + 5 * P);
    IS(sbrk(5 * P) == start + 5 * P && start[10 * P - 1] == 0);
    IS(syscall(SYS_brk, 1) == (long)sbrk(0));

    // Sharing and copying across fork.
    int *shared = mmap(NULL, P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *own = mmap(NULL, P, RW, ANON, -1, 0);
    *shared = *own = 1;
    if (fork() == 0) { *shared = *own = 2; _exit(0); }
    wait(NULL);
    printf("shared %d own %d\n", *shared, *own);

    // Advice and residency.
    char *m = mmap(NULL, 4 * P, RW, ANON, -1, 0);
    m[0] = m[P] = 1;
    SAY(madvise(m, P, MADV_DONTNEED));
    IS(m[0] == 0 && m[P] == 1);
    SAY(madvise(m + 1, P, MADV_DONTNEED));
    SAY(madvise((void *)0x3000000000, P, MADV_DONTNEED));
    SAY(madvise(m, P, 9999));
    unsigned char resident[4];
    SAY(mincore(m, 4 * P, resident));
    IS(resident[1] & 1);
    SAY(mincore((void *)0x3000000000, P, resident));
    SAY(mlock(m, P));
    SAY(munlock(m, P));
    SAY(mlock((void *)0x3000000000, P));

    // System V.
    int id = shmget(IPC_PRIVATE, 2 * P, 0600);
    char *v = shmat(id, NULL, 0);
    IS(v != (void *)-1 && v[P] == 0);
    v[5] = 'v';
    char *w = shmat(id, NULL, SHM_RDONLY);
    IS(w[5] == 'v' && touch(w) == SIGSEGV);
    SAY(shmdt(w));
    IS(look(w) == SIGSEGV);
    SAY(shmdt(w));
    struct shmid_ds ds;
    SAY(shmctl(id, IPC_STAT, &ds));
    IS(ds.shm_segsz == 2 * P && ds.shm_nattch == 1);
    SAY(shmctl(id, IPC_RMID, NULL));
    int sem = semget(IPC_PRIVATE, 3, 0600);
    unsigned short values[3] = {5, 6, 7};
    union { int val; void *p; } arg;
    arg.p = values;
    SAY(semctl(sem, 0, SETALL, arg));
    struct sembuf op = {1, -2, 0};
    SAY(semop(sem, &op, 1));
    printf("value %d\n", semctl(sem, 1, GETVAL));
    struct semid_ds sd;
    arg.p = &sd;
    SAY(semctl(sem, 0, IPC_STAT, arg));
    printf("count %d time-ok %d\n", (int)sd.sem_nsems, sd.sem_otime > 1000000000);
    SAY(semctl(sem, 0, IPC_RMID));

    // Limits.
    struct rlimit limit;
    SAY(getrlimit(RLIMIT_STACK, &limit));
    limit.rlim_cur = limit.rlim_max = 64 << 20;
    SAY(setrlimit(RLIMIT_AS, &limit));
    SAY(mmap(NULL, 256 << 20, RW, ANON, -1, 0));
    limit.rlim_cur = 128 << 20;
    SAY(setrlimit(RLIMIT_AS, &limit));
    struct rlimit back_again;
    getrlimit(RLIMIT_AS, &back_again);
    printf("limit %ld\n", (long)back_again.rlim_cur >> 20);
    return 0;
}

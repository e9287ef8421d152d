// Small parts that a test starts one at a time.
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static int is(const char *a, const char *b) { return !strcmp(a, b); }

static void show(const char *name, int separators) {
    char path[100], text[65536];
    sprintf(path, "/proc/self/%s", name);
    int fd = open(path, O_RDONLY), size = read(fd, text, sizeof text - 1);
    if (size < 0) size = 0;
    text[size] = 0;
    if (separators)
        for (int i = 0; i < size - 1; i++) if (!text[i]) text[i] = ' ';
    printf("%s %s\n", name, text);
    close(fd);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *what = argc > 1 ? argv[1] : "";
    if (is(what, "SIGSEGV")) *(volatile int *)8 = 1;
    if (is(what, "SIGABRT")) abort();
    if (is(what, "loop")) {
        puts("looping");
        for (volatile long i = 0;; i++);
    }
    if (is(what, "hup")) {
        raise(SIGHUP);
        puts("alive");
    }
    if (is(what, "pipe")) for (;;) write(1, "x", 1);
    if (is(what, "descriptors")) {
        DIR *dir = opendir("/proc/self/fd");
        int seen = 0;
        for (struct dirent *e; (e = readdir(dir));) seen++;
        closedir(dir);
        // Every number up to the limit is free or ours to close, and close_range takes it all.
        for (int fd = 3; fd < 20000; fd++) if (close(fd) == 0) seen += 1000;
        printf("seen %d next %d\n", seen, open("/dev/null", O_RDONLY));
        printf("closed %ld\n", syscall(SYS_close_range, 3, ~0U, 0));
        printf("still writing %d\n", fcntl(3, F_GETFD));
        if (fork() == 0) _exit(0);
        int status;
        printf("waited %d\n", wait(&status) > 0);
        printf("none left %d\n", wait(&status) == -1 && errno == ECHILD);
    }
    if (is(what, "eat")) {
        size_t step = 1UL << 30;
        for (int i = 0; i < 4096; i++) {
            char *at = mmap(NULL, step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (at == MAP_FAILED) {
                puts(errno == ENOMEM ? "refused" : strerror(errno));
                return 0;
            }
            at[0] = 1;
        }
        puts("everything was given");
    }
    if (is(what, "forks")) {
        // As a user without other processes, because the limit is not root's.
        struct rlimit few = {12, 12};
        setrlimit(RLIMIT_NPROC, &few);
        if (getuid() == 0 && setuid(64999)) return 3;
        for (int i = 0; i < 100; i++) {
            pid_t child = fork();
            if (child == 0) { pause(); _exit(0); }
            if (child < 0) {
                puts(errno == EAGAIN ? "EAGAIN" : strerror(errno));
                signal(SIGTERM, SIG_IGN);
                kill(0, SIGTERM);
                return 0;
            }
        }
    }
    if (is(what, "proc")) {
        char exe[4096] = "";
        readlink("/proc/self/exe", exe, sizeof exe - 1);
        printf("exe %s\n", exe);
        malloc(100000);
        show("cmdline", 1);
        show("maps", 0);
        show("comm", 0);
        char text[4096];
        int fd = open("/proc/cpuinfo", O_RDONLY);
        text[read(fd, text, sizeof text - 1)] = 0;
        puts(text);
        Elf64_auxv_t entry;
        fd = open("/proc/self/auxv", O_RDONLY);
        int good = 0;
        while (read(fd, &entry, sizeof entry) == sizeof entry)
            if (entry.a_type == AT_ENTRY && entry.a_un.a_val == getauxval(AT_ENTRY)) good = 1;
        puts(good ? "auxv ok" : "auxv wrong");
    }
#ifdef __riscv
    if (is(what, "machine")) {
        struct utsname name;
        uname(&name);
        puts(name.machine);
        printf("hwcap %lx\n", getauxval(AT_HWCAP));
        long pairs[4][2] = {{3, 0}, {4, 0}, {5, 0}, {999, 7}};
        syscall(258, pairs, 4, 0, NULL, 0);
        printf("base %lx\nima %lx\nmisaligned %lx\nunknown key %ld %ld\n", pairs[0][1], pairs[1][1],
               pairs[2][1], pairs[3][0], pairs[3][1]);
        printf("minsigstksz %ld\nsecure %ld\nsysinfo %lx\n", getauxval(51), getauxval(AT_SECURE),
               getauxval(AT_SYSINFO_EHDR));
    }
#endif
    return 0;
}

/* Processes: fork, pipes, wait, execve of itself, environment, exit codes, vfork, memory apart and shared. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static int status_of(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "child")) {
        printf("child %s %s %s %d\n", argv[0], argv[2], getenv("MARK") ? getenv("MARK") : "none", argc);
        return atoi(argv[2]);
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    int private = 1;
    volatile int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *shared = 1;
    pid_t child = fork();
    if (!child) { private = 2; *shared = 2; _exit(7); }
    int status = status_of(child);
    printf("status %d private %d shared %d\n", status, private, *shared);
    int fds[2];
    pipe(fds);
    for (int i = 0; i < 8; i++)
        if (!fork()) {
            uint64_t sum = 0;
            for (int j = 0; j < 10000; j++) sum += (uint64_t)j * (unsigned)(i + 1);
            write(fds[1], &sum, 8);
            _exit(0);
        }
    uint64_t total = 0, part;
    for (int i = 0; i < 8; i++) { read(fds[0], &part, 8); total += part; }
    while (wait(NULL) > 0) ;
    printf("total %llu errno %d\n", (unsigned long long)total, errno == ECHILD);
    char self[4096] = "";
    readlink("/proc/self/exe", self, sizeof self - 1);
    char *words[] = {"renamed", "child", "9", NULL}, *env[] = {"MARK=here", NULL};
    child = fork();
    if (!child) { execve(self, words, env); _exit(100); }
    printf("exec %d\n", status_of(child));
    words[2] = "13";
    child = vfork();
    if (!child) { execve(self, words, env); _exit(101); }
    printf("vfork %d\n", status_of(child));
    words[2] = "21";
    int spawned = posix_spawn(&child, self, NULL, NULL, words, environ);
    status = status_of(child);
    printf("spawn %d %d\n", spawned, status);
    static const int signals[] = {SIGKILL, SIGTERM, SIGABRT, SIGSEGV};
    for (int i = 0; i < 4; i++) {
        child = fork();
        if (!child) { close(2); if (signals[i] == SIGABRT) abort(); kill(getpid(), signals[i]); pause(); }
        printf("killed by %d\n", status_of(child) - 1000);
    }
    child = fork();
    if (!child) { close(2); *(volatile int *)NULL = 1; }
    printf("fault %d\n", status_of(child) - 1000);
    errno = 0;
    int refused = execve("/nonexistent/program", words, env);
    printf("missing %d %d\n", refused, errno);
    int marked = open("/dev/null", O_RDONLY | O_CLOEXEC);
    printf("cloexec %d\n", fcntl(marked, F_GETFD));
    FILE *shell = popen("echo from a shell; exit 3", "r");
    char line[64] = "";
    fgets(line, sizeof line, shell);
    printf("popen %s", line);
    printf("pclose %d\n", WEXITSTATUS(pclose(shell)));
    return report("process");
}

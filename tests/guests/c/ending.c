/* How a program can end: argv[1] says which way. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void bye(void) { printf("atexit\n"); }
static void *leave(void *argument) { exit(*(int *)argument); }
int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "return";
    printf("ending by %s\n", way);
    fflush(stdout);
    atexit(bye);
    if (!strcmp(way, "return")) return 0;
    if (!strcmp(way, "three")) return 3;
    if (!strcmp(way, "large")) return 0x1ff;
    if (!strcmp(way, "_exit")) _exit(44);
    if (!strcmp(way, "abort")) abort();
    if (!strcmp(way, "read")) return *(volatile int *)16;
    if (!strcmp(way, "write")) *(volatile int *)16 = 1;
    if (!strcmp(way, "code")) *(volatile int *)(void *)main = 1;
    if (!strcmp(way, "call")) ((void (*)(void))0x1234560)();
    if (!strcmp(way, "illegal")) __asm__ volatile(".long 0");
    if (!strcmp(way, "stack")) { volatile char frame[4096]; frame[0] = 1; main(argc, argv); return frame[0]; }
    if (!strcmp(way, "term")) raise(SIGTERM);
    if (!strcmp(way, "kill")) kill(getpid(), SIGKILL);
    if (!strcmp(way, "pipe")) { int fds[2]; if (pipe(fds)) return 9; close(fds[0]); write(fds[1], "x", 1); }
    if (!strcmp(way, "thread")) { int code = 5; pthread_t t; pthread_create(&t, NULL, leave, &code); pthread_join(t, NULL); }
    return 98;
}

/* What a program finds when it starts: arguments, environment, auxiliary vector, limits, standard streams. */
#include "check.h"
#include <elf.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

extern char **environ;
int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) printf("argv[%d]=%s\n", i, i ? argv[i] : strrchr(argv[0], '/') ? "path" : argv[0]);
    for (char **e = environ; *e; e++) if (!strncmp(*e, "HARTWOOD_T", 10)) printf("%s\n", *e);
    printf("page %lu clock %lu secure %lu entry %d phdr %d phnum %d random %d hwcap %lx\n", getauxval(AT_PAGESZ), getauxval(AT_CLKTCK),
        getauxval(AT_SECURE), getauxval(AT_ENTRY) != 0, getauxval(AT_PHDR) != 0, getauxval(AT_PHNUM) > 2, getauxval(AT_RANDOM) != 0,
        getauxval(AT_HWCAP) & 0x112d);
    printf("uid %d stack aligned %d environment above arguments %d\n", getauxval(AT_UID) == getuid(), !((uintptr_t)__builtin_frame_address(0) & 15), (char *)environ > (char *)argv);
    struct utsname name;
    uname(&name);
    printf("%s %s\n", name.sysname, name.machine);
    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    printf("stack limit %d\n", limit.rlim_cur >= 1 << 20);
    char line[100];
    while (fgets(line, sizeof line, stdin)) { fputs("in: ", stdout); fputs(line, stdout); }
    fprintf(stderr, "to standard error\n");
    return argc;
}

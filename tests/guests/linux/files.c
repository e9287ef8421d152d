// File system calls: each line is what the kernel answered.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SAY(call) do { errno = 0; long r = (long)(call); \
    printf("%-50s %ld errno %d\n", #call, r < 0 ? -1 : r, r < 0 ? errno : 0); } while (0)
#define IS(call) printf("%-50s %d\n", #call, !!(call))

static void statuses(void) {
    struct stat s, t;
    struct statx x;
    umask(022);
    int fd = open("file", O_CREAT | O_RDWR | O_TRUNC, 0640);
    write(fd, "0123456789", 10);
    SAY(fstat(fd, &s));
    IS(S_ISREG(s.st_mode));
    printf("mode %o size %ld links %d blksize-ok %d blocks-ok %d\n", s.st_mode, (long)s.st_size,
           (int)s.st_nlink, s.st_blksize >= 512, s.st_blocks >= 0);
    SAY(stat("file", &t));
    IS(s.st_ino == t.st_ino && s.st_dev == t.st_dev);
    SAY(syscall(SYS_statx, AT_FDCWD, "file", 0, 0x7ff, &x));
    IS(x.stx_size == 10 && x.stx_ino == s.st_ino);
    struct timespec times[2] = {{1000000000, 5}, {1234567890, 123456789}};
    SAY(futimens(fd, times));
    fstat(fd, &s);
    IS(s.st_mtim.tv_sec == 1234567890 && s.st_mtim.tv_nsec == 123456789);
    IS(s.st_atim.tv_sec == 1000000000 && s.st_atim.tv_nsec == 5);
    SAY(stat("missing", &s));
    SAY(stat("file/under", &s));
    SAY(stat((char *)8, &s));
    SAY(stat("file", (struct stat *)8));
    SAY(fstat(999, &s));
    SAY(stat("/dev/null", &s));
    printf("null rdev %lx char %d\n", (long)s.st_rdev, S_ISCHR(s.st_mode));
    SAY(fstatat(fd, "", &s, AT_EMPTY_PATH));
    SAY(chmod("file", 0600));
    SAY(access("file", X_OK));
    SAY(access("file", R_OK));
    SAY(fchmodat(AT_FDCWD, "file", 0755, 0));
    SAY(truncate("file", 4));
    SAY(lseek(fd, 0, SEEK_END));
    SAY(ftruncate(fd, 100));
    SAY(fallocate(fd, 0, 0, 8192));
    SAY(lseek(fd, 0, SEEK_END));
    SAY(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    struct statfs fs;
    SAY(statfs(".", &fs));
    IS(fs.f_bsize > 0);
    SAY(close(fd));
    SAY(close(fd));
}

static void names(void) {
    char buffer[PATH_MAX];
    SAY(mkdir("folder", 0755));
    SAY(mkdir("folder", 0755));
    SAY(symlink("file", "link"));
    SAY(readlink("link", buffer, sizeof buffer));
    SAY(readlink("file", buffer, sizeof buffer));
    SAY(link("file", "hard"));
    struct stat s;
    SAY(lstat("link", &s));
    IS(S_ISLNK(s.st_mode));
    SAY(rename("hard", "folder/moved"));
    SAY(renameat2(AT_FDCWD, "link", AT_FDCWD, "folder/moved", RENAME_NOREPLACE));
    SAY(unlink("missing"));
    SAY(rmdir("folder"));
    SAY(chdir("folder"));
    IS(getcwd(buffer, sizeof buffer) && strcmp(strrchr(buffer, '/'), "/folder") == 0);
    SAY(syscall(SYS_getcwd, buffer, 2));
    SAY(chdir(".."));
    int dir = open("folder", O_RDONLY | O_DIRECTORY);
    SAY(mkdirat(dir, "inner", 0700));
    SAY(fchdir(dir));
    SAY(access("inner", F_OK));
    SAY(chdir(".."));
    SAY(openat(dir, "moved", O_RDONLY | O_DIRECTORY));
    SAY(open("link", O_RDONLY | O_NOFOLLOW));
    SAY(open("file", O_CREAT | O_EXCL, 0600));
    SAY(open("folder", O_WRONLY));
    SAY(mkfifo("fifo", 0600));
    SAY(mknod("node", S_IFREG | 0600, 0));
    close(dir);
    char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    SAY(open(longer, O_RDONLY));
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void directories(void) {
    struct dirent **entries;
    int count = scandir(".", &entries, NULL, by_name);
    for (int i = 0; i < count; i++)
        printf("entry %s type %d\n", entries[i]->d_name, entries[i]->d_type);
    mkdir("many", 0755);
    char name[64];
    for (int i = 0; i < 500; i++) {
        sprintf(name, "many/a-file-with-a-rather-long-name-%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    DIR *dir = opendir("many");
    int seen = 0;
    long middle = 0;
    while (readdir(dir)) if (++seen == 100) middle = telldir(dir);
    printf("many %d\n", seen);
    seekdir(dir, middle);
    seen = 0;
    while (readdir(dir)) seen++;
    printf("after seek %d\n", seen);
    closedir(dir);
    SAY(scandir("missing", &entries, NULL, by_name));
}

static void vectors(void) {
    char a[3], b[5], c[8];
    struct iovec out[] = {{"abc", 3}, {"defgh", 5}, {"", 0}, {"ijk", 3}};
    struct iovec in[] = {{a, 3}, {b, 5}, {c, 8}};
    int fd = open("vector", O_CREAT | O_RDWR | O_TRUNC, 0600);
    SAY(writev(fd, out, 4));
    SAY(lseek(fd, 0, SEEK_SET));
    SAY(readv(fd, in, 3));
    printf("%.3s %.5s %.3s\n", a, b, c);
    SAY(pwritev(fd, out, 2, 100));
    SAY(preadv(fd, in, 2, 100));
    SAY(preadv2(fd, in, 2, 100, 0));
    SAY(readv(fd, in, -1));
    SAY(readv(fd, in, 2000));
    SAY(readv(fd, (struct iovec *)16, 2));
    in[0].iov_base = (void *)16;
    SAY(preadv(fd, in, 1, 0));
    SAY(pwrite(fd, "xyz", 3, 1));
    SAY(pread(fd, c, 8, 0));
    printf("%.8s\n", c);
    SAY(pread(fd, (void *)-4096, 8, 0));
    SAY(write(fd, (void *)(1L << 38), 8));
    // A buffer that ends in the middle: the kernel writes what it can.
    char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    SAY(pread(fd, page + 4090, 100, 0));
    int pipes[2];
    pipe(pipes);
    write(pipes[1], "0123456789", 10);
    SAY(read(pipes[0], page + 4092, 10));
    close(fd);
}

static void moving(void) {
    int from = open("vector", O_RDONLY), to = open("copy", O_CREAT | O_RDWR | O_TRUNC, 0600);
    off_t at = 2;
    SAY(sendfile(to, from, &at, 5));
    printf("offset %ld\n", (long)at);
    loff_t in = 0, out = 50;
    SAY(copy_file_range(from, &in, to, &out, 4, 0));
    int pipes[2];
    SAY(pipe2(pipes, O_NONBLOCK | O_CLOEXEC));
    char byte;
    SAY(read(pipes[0], &byte, 1));
    SAY(splice(from, NULL, pipes[1], NULL, 4, 0));
    int other[2];
    pipe(other);
    SAY(tee(pipes[0], other[1], 4, 0));
    int waiting;
    SAY(ioctl(pipes[0], FIONREAD, &waiting));
    printf("waiting %d\n", waiting);
    struct iovec vector = {"spliced", 7};
    SAY(vmsplice(pipes[1], &vector, 1, 0));
    SAY(fcntl(pipes[0], F_GETPIPE_SZ) > 0);
    SAY(fcntl(pipes[0], F_GETFL) & O_NONBLOCK);
    SAY(fcntl(pipes[0], F_GETFD));
    close(pipes[0]);
    close(other[0]);
}

static void descriptors(void) {
    int fd = open("file", O_RDWR);
    int copy = dup(fd);
    IS(copy == fd + 1);
    SAY(dup2(fd, 100));
    SAY(dup2(fd, -1));
    SAY(dup3(fd, fd, 0));
    SAY(fcntl(fd, F_DUPFD, 200));
    SAY(fcntl(fd, F_DUPFD_CLOEXEC, 200));
    SAY(fcntl(201, F_GETFD));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    SAY(fcntl(fd, F_SETLK, &lock));
    fflush(stdout);
    if (fork() == 0) {
        SAY(fcntl(fd, F_SETLK, &lock));
        SAY(fcntl(fd, F_GETLK, &lock));
        IS(lock.l_pid == getppid());
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    SAY(flock(fd, LOCK_EX));
    SAY(syscall(SYS_close_range, 150, 5000, 0));
    SAY(fcntl(200, F_GETFD));
    SAY(fcntl(100, F_GETFD));
    int event = eventfd(3, EFD_NONBLOCK);
    uint64_t value;
    SAY(read(event, &value, 8));
    printf("value %d\n", (int)value);
    SAY(read(event, &value, 8));
    int watch = inotify_init1(IN_NONBLOCK);
    SAY(inotify_add_watch(watch, ".", IN_CREATE));
    close(open("watched", O_CREAT, 0600));
    char events[512];
    SAY(read(watch, events, sizeof events));
    printf("event %s\n", ((struct inotify_event *)events)->name);
    int memory = memfd_create("name", MFD_CLOEXEC);
    SAY(ftruncate(memory, 4096));
    SAY(isatty(fd));
    struct winsize size;
    SAY(ioctl(fd, TIOCGWINSZ, &size));
    SAY(ioctl(fd, 0xdeadbeef, &size));
    SAY(fsync(fd));
    SAY(fdatasync(fd));
    SAY(fsetxattr(fd, "user.key", "value", 5, 0) == 0 || errno == ENOTSUP);
    struct timeval now[2] = {{1, 2}, {3, 4}};
    SAY(utimes("file", now));
    DIR *dir = opendir("/proc/self/fd");
    int seen = 0, high = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        seen++;
        if (atoi(e->d_name) > 205) high++;
    }
    printf("descriptors above %d\n", high);
    closedir(dir);
}

int main(int argc, char **argv) {
    char where[] = "/tmp/guest-files-XXXXXX";
    setvbuf(stdout, NULL, _IONBF, 0);
    (void)argc; (void)argv;
    if (!mkdtemp(where) || chdir(where)) return 1;
    close(0);
    open("/dev/null", O_RDONLY);
    statuses(); names(); vectors(); moving(); descriptors(); directories();
    chdir("/");
    char command[100];
    for (int i = 0; i < 500; i++) {
        sprintf(command, "%s/many/a-file-with-a-rather-long-name-%d", where, i);
        unlink(command);
    }
    const char *left[] = {"many", "folder/inner", "folder/moved", "folder", "file", "link", "fifo",
                          "node", "vector", "copy", "watched"};
    for (unsigned i = 0; i < sizeof left / sizeof *left; i++) {
        sprintf(command, "%s/%s", where, left[i]);
        if (remove(command)) printf("left %s\n", left[i]);
    }
    printf("removed %d\n", rmdir(where));
    return 0;
}

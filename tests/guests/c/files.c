/* Files: large writes, seeks, vectors, holes, maps private and shared, directories, links, times, locks. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
int main(void) {
    char folder[] = "/tmp/hartwood-files-XXXXXX";
    if (!mkdtemp(folder) || chdir(folder)) return 1;
    enum { BLOCK = 65536, BLOCKS = 200 };
    static unsigned char block[BLOCK];
    uint64_t state = 3;
    int fd = open("large", O_RDWR | O_CREAT | O_TRUNC, 0640);
    for (int i = 0; i < BLOCKS; i++) {
        for (int j = 0; j < BLOCK; j += 8) { uint64_t v = next_random(&state); memcpy(block + j, &v, 8); }
        if (write(fd, block, BLOCK) != BLOCK) return 2;
    }
    struct stat info;
    fstat(fd, &info);
    printf("size %lld mode %o links %d blocks %d\n", (long long)info.st_size, info.st_mode, (int)info.st_nlink, info.st_blksize > 0);
    lseek(fd, 0, SEEK_SET);
    for (ssize_t got; (got = read(fd, block, 10007)) > 0;) mix_bytes(block, (size_t)got);
    report("read");
    unsigned char *map = mmap(NULL, BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned char *private = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, BLOCK);
    for (int i = 0; i < BLOCK * BLOCKS; i += 4096) map[i] = (unsigned char)i;
    memset(private, 0x55, 100);
    pread(fd, block, 200, BLOCK);
    mix_bytes(block, 200); mix_bytes(private, 200);
    msync(map, BLOCK * BLOCKS, MS_SYNC);
    pwrite(fd, "through", 7, 5000);
    printf("map sees %.7s\n", map + 5000);
    munmap(map, BLOCK * BLOCKS); munmap(private, BLOCK);
    ftruncate(fd, 1000);
    printf("end %lld hole %lld\n", (long long)lseek(fd, 0, SEEK_END), (long long)lseek(fd, 1ll << 40, SEEK_SET));
    struct iovec vector[3] = {{"one ", 4}, {"two ", 4}, {"three\n", 6}};
    lseek(fd, 0, SEEK_SET);
    printf("writev %zd\n", writev(fd, vector, 3));
    printf("copied %zd\n", copy_file_range(fd, &(off_t){0}, open("copy", O_RDWR | O_CREAT, 0600), NULL, 500, 0));
    printf("flock %d\n", flock(fd, LOCK_EX | LOCK_NB));
    close(fd);
    mkdir("directory", 0700); symlink("large", "link"); link("large", "hard"); rename("copy", "directory/copy");
    char target[64] = "";
    readlink("link", target, sizeof target);
    stat("link", &info);
    printf("link %s links %d\n", target, (int)info.st_nlink);
    lstat("link", &info);
    printf("is link %d access %d %d\n", S_ISLNK(info.st_mode), access("large", R_OK), access("missing", F_OK));
    struct timespec times[2] = {{1000000000, 5}, {1234567890, 123456789}};
    utimensat(AT_FDCWD, "large", times, 0);
    stat("large", &info);
    printf("times %ld.%09ld %ld\n", (long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec, (long)info.st_atim.tv_sec);
    char *names[20];
    int count = 0;
    DIR *dir = opendir(".");
    for (struct dirent *entry; (entry = readdir(dir));) names[count++] = strdup(entry->d_name);
    closedir(dir);
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) printf("%s ", names[i]);
    printf("\nerrors %d %d %d\n", open("missing/x", O_RDONLY) < 0 ? errno : 0, rmdir("directory") ? errno : 0, close(77) ? errno : 0);
    int pair[2], epoll = epoll_create1(EPOLL_CLOEXEC);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1234567890abcdefull}, ready[4];
    epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event);
    printf("nothing %d\n", epoll_wait(epoll, ready, 4, 0));
    write(pair[1], "ping", 4);
    int events = epoll_wait(epoll, ready, 4, 1000);
    printf("events %d %x %llx\n", events, ready[0].events, (unsigned long long)ready[0].data.u64);
    struct pollfd polled[2] = {{pair[0], POLLIN, 0}, {pair[1], POLLIN | POLLOUT, 0}};
    printf("poll %d %d %d\n", poll(polled, 2, 0), polled[0].revents, polled[1].revents);
    int passed[1] = {open("hard", O_RDONLY)};
    char control[CMSG_SPACE(sizeof passed)] = {0};
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof passed)};
    memcpy(CMSG_DATA(header), passed, sizeof passed);
    printf("sendmsg %zd\n", sendmsg(pair[1], &message, 0));
    char text[32] = "";
    struct iovec in = {text, sizeof text};
    message.msg_iov = &in;
    ssize_t got = recvmsg(pair[0], &message, 0);
    memcpy(passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof passed);
    printf("recvmsg %zd %s", got, text);
    got = read(passed[0], text, 14);
    printf(" passed %zd %.14s", got, text);
    unlink("directory/copy"); rmdir("directory"); unlink("link"); unlink("hard"); unlink("large");
    chdir("/");
    printf("removed %d\n", rmdir(folder));
    return report("files");
}

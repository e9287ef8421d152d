// Sockets, polling and events.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(call) do { errno = 0; long r = (long)(call); \
    printf("%-60s %ld errno %d\n", #call, r, r < 0 ? errno : 0); } while (0)

static void tcp(void) {
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    SAY(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    SAY(bind(server, (struct sockaddr *)&at, sizeof at));
    SAY(listen(server, 5));
    SAY(getsockname(server, (struct sockaddr *)&at, &size));
    if (fork() == 0) {
        int client = socket(AF_INET, SOCK_STREAM, 0);
        connect(client, (struct sockaddr *)&at, sizeof at);
        char text[64] = "";
        send(client, "request", 7, 0);
        recv(client, text, sizeof text, 0);
        write(client, text, strlen(text));
        shutdown(client, SHUT_WR);
        _exit(0);
    }
    struct sockaddr_in peer;
    size = sizeof peer;
    int fd = accept4(server, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);
    printf("peer size %d loopback %d\n", size, peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    char text[64] = "";
    SAY(recv(fd, text, sizeof text, 0));
    printf("%s\n", text);
    SAY(send(fd, "answer", 6, MSG_NOSIGNAL));
    memset(text, 0, sizeof text);
    SAY(recv(fd, text, sizeof text, MSG_WAITALL));
    printf("%s\n", text);
    SAY(recv(fd, text, sizeof text, 0));
    size = sizeof one;
    SAY(getsockopt(fd, SOL_SOCKET, SO_TYPE, &one, &size));
    printf("type %d\n", one);
    SAY(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, &size));
    SAY(getpeername(server, (struct sockaddr *)&at, &size));
    wait(NULL);
    close(fd);
    close(server);
    SAY(connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&at, sizeof at));
    SAY(socket(AF_INET, 77, 0));
    SAY(connect(0, (struct sockaddr *)&at, sizeof at));
}

static void messages(void) {
    int pair[2], pipes[2];
    SAY(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    pipe(pipes);
    struct iovec out[2] = {{"first", 5}, {"second", 6}};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = out, .msg_iovlen = 2, .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &pipes[1], sizeof(int));
    SAY(sendmsg(pair[0], &message, 0));
    char a[4], b[20], room[CMSG_SPACE(sizeof(int)) + 32];
    struct iovec in[2] = {{a, 4}, {b, 20}};
    struct msghdr got = {.msg_iov = in, .msg_iovlen = 2, .msg_control = room,
                         .msg_controllen = sizeof room};
    SAY(recvmsg(pair[1], &got, MSG_CMSG_CLOEXEC));
    printf("%.4s %.7s control %ld flags %x\n", a, b, (long)got.msg_controllen,
           got.msg_flags & MSG_TRUNC);
    int passed;
    memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&got)), sizeof passed);
    SAY(write(passed, "by the copy", 11));
    SAY(read(pipes[0], b, sizeof b));
    SAY(send(pair[0], "truncated", 9, 0));
    struct iovec small = {a, 4};
    struct msghdr tiny = {.msg_iov = &small, .msg_iovlen = 1};
    SAY(recvmsg(pair[1], &tiny, 0));
    printf("truncated %d\n", !!(tiny.msg_flags & MSG_TRUNC));
    struct mmsghdr many[3] = {0};
    for (int i = 0; i < 3; i++) many[i].msg_hdr = (struct msghdr){.msg_iov = out, .msg_iovlen = i % 2 + 1};
    SAY(sendmmsg(pair[0], many, 3, 0));
    printf("lengths %d %d %d\n", many[0].msg_len, many[1].msg_len, many[2].msg_len);
    struct mmsghdr back[4] = {0};
    char rooms[4][32];
    struct iovec vectors[4];
    for (int i = 0; i < 4; i++) {
        vectors[i] = (struct iovec){rooms[i], 32};
        back[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    SAY(recvmmsg(pair[1], back, 4, MSG_DONTWAIT, NULL));
    printf("lengths %d %d %d\n", back[0].msg_len, back[1].msg_len, back[2].msg_len);
    SAY(recvmsg(pair[1], (struct msghdr *)16, 0));
    char folder[] = "/tmp/guest-socket-XXXXXX";
    mkdtemp(folder);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    sprintf(un.sun_path, "%s/s", folder);
    int server = socket(AF_UNIX, SOCK_DGRAM, 0), client = socket(AF_UNIX, SOCK_DGRAM, 0);
    SAY(bind(server, (struct sockaddr *)&un, sizeof un));
    SAY(sendto(client, "to a path", 9, 0, (struct sockaddr *)&un, sizeof un));
    struct sockaddr_un from;
    socklen_t size = sizeof from;
    SAY(recvfrom(server, b, sizeof b, 0, (struct sockaddr *)&from, &size));
    SAY(unlink(un.sun_path));
    SAY(rmdir(folder));
}

static void polling(void) {
    int pipes[2], other[2];
    pipe(pipes);
    pipe(other);
    struct pollfd fds[3] = {{pipes[0], POLLIN, 0}, {pipes[1], POLLOUT, 0}, {-1, POLLIN, 0}};
    SAY(poll(fds, 3, 0));
    printf("events %x %x %x\n", fds[0].revents, fds[1].revents, fds[2].revents);
    write(pipes[1], "x", 1);
    SAY(poll(fds, 1, 1000));
    printf("events %x\n", fds[0].revents);
    fds[0].fd = 999;
    SAY(poll(fds, 1, 0));
    printf("events %x\n", fds[0].revents);
    fd_set reads;
    FD_ZERO(&reads);
    FD_SET(pipes[0], &reads);
    FD_SET(other[0], &reads);
    struct timeval zero = {0, 0};
    SAY(select(other[0] + 1, &reads, NULL, NULL, &zero));
    printf("set %d %d\n", !!FD_ISSET(pipes[0], &reads), !!FD_ISSET(other[0], &reads));

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = 0x123456789abcdef0}}, got[8];
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event));
    event.data.u64 = 2;
    event.events = EPOLLIN | EPOLLET;
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, other[0], &event));
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, other[0], &event));
    SAY(epoll_wait(epoll, got, 8, 0));
    printf("data %llx events %x\n", (unsigned long long)got[0].data.u64, got[0].events);
    write(other[1], "y", 1);
    SAY(epoll_wait(epoll, got, 8, -1));
    printf("sum %llx\n", (unsigned long long)(got[0].data.u64 + got[1].data.u64));
    SAY(epoll_wait(epoll, got, 8, 10));
    SAY(epoll_ctl(epoll, EPOLL_CTL_MOD, other[0], &event));
    SAY(epoll_ctl(epoll, EPOLL_CTL_DEL, pipes[0], NULL));
    SAY(epoll_wait(epoll, got, 8, 10));
    SAY(epoll_wait(epoll, got, 0, 10));
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, 999, &event));

    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec soon = {.it_value = {0, 2000000}};
    SAY(timerfd_settime(timer, 0, &soon, NULL));
    unsigned long expired;
    SAY(read(timer, &expired, 8));
    printf("expired %lu\n", expired);
    int waiting;
    SAY(ioctl(pipes[0], FIONREAD, &waiting));
    int on = 1;
    SAY(ioctl(pipes[0], FIONBIO, &on));
    printf("nonblocking %d\n", !!(fcntl(pipes[0], F_GETFL) & O_NONBLOCK));
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    tcp();
    messages();
    polling();
    return 0;
}

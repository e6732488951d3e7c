#define _GNU_SOURCE
#include "loop.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

void die(const char *what)
{
    perror(what);
    exit(1);
}

void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory)
        die("memory");
    return memory;
}

/* -- time and waiting ------------------------------------------------------------------------- */

static int poll_fd, timer_fd;
static double armed_for;

double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

void watch(int fd, void *owner)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = owner};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
}

void open_loop(void)
{
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (poll_fd < 0 || timer_fd < 0)
        die("epoll or timerfd");
    watch(timer_fd, NULL);
}

int wait_until(double due, struct epoll_event *events)
{
    if (due != armed_for) {
        struct itimerspec at = {0};
        if (!isinf(due)) {
            at.it_value.tv_sec = (time_t)due;
            at.it_value.tv_nsec = (long)((due - (double)(time_t)due) * 1e9);
        }
        timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
        armed_for = due;
    }
    int ready = epoll_wait(poll_fd, events, READY_AT_ONCE, -1);
    for (int i = 0; i < ready; i++) {
        uint64_t expirations;
        if (!events[i].data.ptr && read(timer_fd, &expirations, sizeof expirations) > 0)
            armed_for = 0;
    }
    return ready;
}

/* -- sockets ---------------------------------------------------------------------------------- */

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

void prepare(int fd)
{
    int on = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int connect_to(int port)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    prepare(fd);
    return fd;
}

int listen_on(int port)
{
    struct sockaddr_in address = loopback(port);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096))
        die("listen");
    prepare(fd);
    return fd;
}

long length_of(const char *head)
{
    const char *found = strcasestr(head, "\r\ncontent-length:");
    return found ? atol(found + strlen("\r\ncontent-length:")) : -1;
}

/* Waiting for sockets and moments, in one thread. */
#ifndef LOOP_H
#define LOOP_H

#include <stddef.h>
#include <sys/epoll.h>

enum { READY_AT_ONCE = 512, REQUEST_BYTES = 16384 };

struct text {
    char *bytes;
    int length;
};

void die(const char *what);
void *zeroed(size_t count, size_t size);

/* Seconds on a clock that never goes back. */
double now(void);

void open_loop(void);
void watch(int fd, void *owner);

/* Waits for something to read or for a moment; the owner of the timer's own event is NULL. */
int wait_until(double due, struct epoll_event *events);

int connect_to(int port);
int listen_on(int port);
void prepare(int fd);

/* The length that the head of a message announces, or -1. */
long length_of(const char *head);

/* The mock upstream; never returns. */
void serve_upstream(int port, int events, double gap);

#endif

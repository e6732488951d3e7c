/* The mock upstream: answers at once, or with paced events. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER_BYTES = 512 };

static const char *MODEL = "claude-sonnet-4-5-20250929";

/* A client of the upstream; those with a stream stand in line, in the order of what they are due. */
struct peer {
    int fd, got, left;
    double due;
    struct peer *before, *after;
    char request[REQUEST_BYTES];
};

static struct peer line = {.before = &line, .after = &line};
static struct text answer, head, event, ending;
static int events_each;
static double gap_s;

static struct text printed(const char *format, const char *filler)
{
    struct text made;
    made.length = asprintf(&made.bytes, format, MODEL, filler);
    if (made.length < 0)
        die("memory");
    return made;
}

static struct text chunk(const char *format, const char *filler)
{
    struct text data = printed(format, filler), made;
    made.length = asprintf(&made.bytes, "%x\r\n%s\r\n", data.length, data.bytes);
    free(data.bytes);
    return made;
}

static void write_answers(void)
{
    const char *completion =
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1718000000,\"model\":\"%s\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
        "\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":200,\"completion_tokens\":50,\"total_tokens\":250}}";
    char filler[ANSWER_BYTES + 1] = {0};
    struct text bare = printed(completion, "");
    memset(filler, 'w', ANSWER_BYTES - bare.length);
    struct text body = printed(completion, filler);
    answer.length = asprintf(&answer.bytes,
                             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                             "Content-Length: %d\r\n\r\n%s",
                             body.length, body.bytes);
    head = printed("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                   "Transfer-Encoding: chunked\r\n\r\n%.0s%s", "");
    event = chunk("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\","
                  "\"created\":1718000000,\"model\":\"%s\",\"choices\":[{\"index\":0,"
                  "\"delta\":{\"content\":\"%s\"},\"finish_reason\":null}]}\n\n", " token");
    struct text usage = chunk("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\","
                              "\"created\":1718000000,\"model\":\"%s\",\"choices\":[],"
                              "\"usage\":{\"prompt_tokens\":200,\"completion_tokens\":%s,"
                              "\"total_tokens\":300}}\n\n", "100");
    ending.length = asprintf(&ending.bytes, "%se\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", usage.bytes);
}

static void leave_line(struct peer *peer)
{
    peer->before->after = peer->after;
    peer->after->before = peer->before;
    peer->before = peer->after = peer;
}

static void hang_up(struct peer *peer)
{
    leave_line(peer);
    close(peer->fd);
    free(peer);
}

static int say(struct peer *peer, struct text text)
{
    return write(peer->fd, text.bytes, text.length) == text.length;
}

/* Sends what is due now and goes to the end of the line. All gaps are equal, so the line stays sorted. */
static void send_event(struct peer *peer)
{
    leave_line(peer);
    if (!say(peer, peer->left ? event : ending)) {
        hang_up(peer);
        return;
    }
    if (!peer->left--)
        return;
    peer->due += gap_s;
    peer->before = line.before;
    peer->after = &line;
    line.before->after = peer;
    line.before = peer;
}

static void reply(struct peer *peer, const char *body)
{
    peer->got = 0;
    if (!strstr(body, "\"stream\":true") && !strstr(body, "\"stream\": true")) {
        if (!say(peer, answer))
            hang_up(peer);
        return;
    }
    peer->left = events_each;
    peer->due = now();
    if (say(peer, head))
        send_event(peer);
    else
        hang_up(peer);
}

static void hear(struct peer *peer)
{
    int room = REQUEST_BYTES - 1 - peer->got;
    int got = read(peer->fd, peer->request + peer->got, room);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        hang_up(peer);
        return;
    }
    peer->got += got;
    peer->request[peer->got] = 0;
    char *body = strstr(peer->request, "\r\n\r\n");
    if (!body)
        return;
    body += 4;
    long length = length_of(peer->request);
    if (peer->got - (body - peer->request) >= (length < 0 ? 0 : length))
        reply(peer, body);
}

static void welcome(int door)
{
    int fd;
    while ((fd = accept(door, NULL, NULL)) >= 0) {
        struct peer *peer = zeroed(1, sizeof *peer);
        prepare(fd);
        peer->fd = fd;
        peer->before = peer->after = peer;
        watch(fd, peer);
    }
}

void serve_upstream(int port, int events, double gap)
{
    events_each = events;
    gap_s = gap;
    struct epoll_event ready[READY_AT_ONCE];
    int door = listen_on(port);
    write_answers();
    watch(door, &line);
    for (;;) {
        int count = wait_until(line.after == &line ? INFINITY : line.after->due, ready);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.ptr == &line)
                welcome(door);
            else if (ready[i].data.ptr)
                hear(ready[i].data.ptr);
        }
        for (double at = now(); line.after != &line && line.after->due <= at;)
            send_event(line.after);
    }
}

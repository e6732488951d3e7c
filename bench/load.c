/* The mock upstream and the load of `make bench`: one program, one thread, epoll.
 *
 *   load upstream PORT EVENTS GAP_MS
 *       Answers every POST: JSON at once, or, to a body that asks for a stream, EVENTS server-sent
 *       events with GAP_MS between them, the first at once, then usage and [DONE].
 *   load hold PORT STREAMS RAMP_S SECONDS BODY
 *       Opens STREAMS streams, evenly over RAMP_S, begins each anew when it ends, and counts for SECONDS.
 *   load pace PORT RATE SECONDS CONNECTIONS BODY
 *       Sends requests at random moments, RATE a second on average, whether or not earlier ones were
 *       answered. Latency counts from the moment a request was due, so waiting for a connection counts.
 *
 * BODY is a file; the client key comes in the environment as CLIENT_KEY. `hold` and `pace` say "begin" and
 * "end" on standard output when the counted time begins and ends, then print their figures as one line of
 * JSON. Times are milliseconds there, seconds in here.
 */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { READ_BYTES = 65536 };

/* -- what both kinds of load share ------------------------------------------------------------ */

struct samples {
    double *values;
    long count, room;
};

static int port;
static struct text request;
static long errors;

static void note(struct samples *samples, double value)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 4096;
        samples->values = realloc(samples->values, samples->room * sizeof(double));
        if (!samples->values)
            die("memory");
    }
    samples->values[samples->count++] = value;
}

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile_ms(struct samples *samples, double share)
{
    if (!samples->count)
        return 0;
    qsort(samples->values, samples->count, sizeof(double), by_size);
    return 1e3 * samples->values[(long)((samples->count - 1) * share)];
}

static void write_request(const char *path)
{
    static char body[REQUEST_BYTES];
    const char *key = getenv("CLIENT_KEY");
    FILE *file = fopen(path, "r");
    if (!file)
        die(path);
    size_t length = fread(body, 1, sizeof body - 1, file);
    fclose(file);
    request.length = asprintf(&request.bytes,
                              "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                              "Content-Type: application/json\r\nAuthorization: Bearer %s\r\n"
                              "Content-Length: %zu\r\n\r\n%s",
                              port, key ? key : "none", length, body);
}

static void milestone(const char *name)
{
    puts(name);
    fflush(stdout);
}

/* Counts an error; a subject that fails again and again ends the program. */
static void count_error(const char *what)
{
    if (++errors > 1000) {
        fprintf(stderr, "too many errors, the last one: %s\n", what);
        exit(1);
    }
}

/* The text as the last bytes of a word, to be compared with the last bytes that arrived. */
static uint64_t word(const char *text)
{
    uint64_t made = 0;
    while (*text)
        made = made << 8 | (unsigned char)*text++;
    return made;
}

#define ENDS_WITH(tail, text) (((tail) & ((1ULL << 8 * (sizeof(text) - 1)) - 1)) == word(text))

/* -- streams ---------------------------------------------------------------------------------- */

struct stream {
    int fd, was_open, has_event, is_done, seen;
    char status[12];
    uint64_t tail;
    double asked;
};

static struct samples first;
static long events_seen, ended;

static void ask_for_stream(struct stream *stream)
{
    if (stream->fd < 0) {
        stream->fd = connect_to(port);
        watch(stream->fd, stream);
    }
    stream->has_event = stream->is_done = stream->seen = 0;
    stream->tail = 0;
    stream->asked = now();
    if (write(stream->fd, request.bytes, request.length) != request.length)
        count_error("the request was not taken");
}

static void ask_anew(struct stream *stream, const char *problem)
{
    count_error(problem);
    stream->was_open = 0;
    close(stream->fd);
    stream->fd = -1;
    ask_for_stream(stream);
}

static void take_byte(struct stream *stream, char byte, double at)
{
    stream->tail = stream->tail << 8 | (unsigned char)byte;
    if (ENDS_WITH(stream->tail, "data: ")) {
        events_seen++;
        if (!stream->has_event)
            note(&first, at - stream->asked);
        stream->has_event = stream->was_open = 1;
    } else if (ENDS_WITH(stream->tail, "[DONE]")) {
        stream->is_done = 1;
    }
}

static void read_stream(struct stream *stream)
{
    static char bytes[READ_BYTES];
    int got = read(stream->fd, bytes, sizeof bytes);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        ask_anew(stream, "the connection was closed");
        return;
    }
    double at = now();
    for (int i = 0; i < got; i++) {
        if (stream->seen < (int)sizeof stream->status)
            stream->status[stream->seen++] = bytes[i];
        take_byte(stream, bytes[i], at);
    }
    if (stream->seen == (int)sizeof stream->status && memcmp(stream->status, "HTTP/1.1 200", 12)) {
        ask_anew(stream, "the status was not 200");
    } else if (ENDS_WITH(stream->tail, "\r\n0\r\n\r\n")) {
        ended++;
        if (stream->is_done)
            ask_for_stream(stream);
        else
            ask_anew(stream, "the stream ended without [DONE]");
    }
}

static void read_streams(double until)
{
    struct epoll_event ready[READY_AT_ONCE];
    while (now() < until) {
        int count = wait_until(until, ready);
        for (int i = 0; i < count; i++)
            if (ready[i].data.ptr)
                read_stream(ready[i].data.ptr);
    }
}

static void hold(int streams, double ramp_s, double seconds)
{
    struct stream *all = zeroed(streams, sizeof *all);
    double start = now();
    for (int i = 0; i < streams; i++) {
        read_streams(start + ramp_s * i / streams);
        all[i].fd = -1;
        ask_for_stream(&all[i]);
    }
    read_streams(start + ramp_s);
    events_seen = ended = first.count = 0;
    double begin = now();
    milestone("begin");
    read_streams(begin + seconds);
    milestone("end");
    int open = 0;
    for (int i = 0; i < streams; i++)
        open += all[i].was_open;
    printf("{\"open\": %d, \"seconds\": %.6f, \"events\": %ld, \"ended\": %ld, \"errors\": %ld, "
           "\"first_p50_ms\": %.4f, \"first_p99_ms\": %.4f}\n",
           open, now() - begin, events_seen, ended, errors, percentile_ms(&first, 0.5),
           percentile_ms(&first, 0.99));
}

/* -- requests at a rate ----------------------------------------------------------------------- */

enum { WAITING_AT_MOST = 1 << 16 };

struct connection {
    int fd, got, is_busy;
    double due;
    char answer[READ_BYTES];
};

static struct samples latencies, lateness;
static struct connection **idle;
static double waiting[WAITING_AT_MOST];
static unsigned long idle_count, waiting_first, waiting_next;

static void send_request(struct connection *connection, double due)
{
    connection->due = due;
    connection->got = 0;
    connection->is_busy = 1;
    if (write(connection->fd, request.bytes, request.length) != request.length)
        die("the request was not taken");
}

static void put_back(struct connection *connection)
{
    connection->is_busy = 0;
    if (waiting_first < waiting_next)
        send_request(connection, waiting[waiting_first++ % WAITING_AT_MOST]);
    else
        idle[idle_count++] = connection;
}

static int is_complete(struct connection *connection)
{
    connection->answer[connection->got] = 0;
    char *body = strstr(connection->answer, "\r\n\r\n");
    if (!body)
        return 0;
    long length = length_of(connection->answer);
    if (length >= 0)
        return connection->got - (body + 4 - connection->answer) >= length;
    return !memcmp(connection->answer + connection->got - 5, "0\r\n\r\n", 5);
}

static void read_answer(struct connection *connection)
{
    int got = read(connection->fd, connection->answer + connection->got, READ_BYTES - 1 - connection->got);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        fprintf(stderr, "the connection was closed\n");
        exit(1);
    }
    connection->got += got;
    if (!connection->is_busy || !is_complete(connection))
        return;
    note(&latencies, now() - connection->due);
    if (memcmp(connection->answer, "HTTP/1.1 200", 12))
        count_error("the status was not 200");
    put_back(connection);
}

static void request_due(double due)
{
    if (idle_count) {
        send_request(idle[--idle_count], due);
        note(&lateness, now() - due);
    } else if (waiting_next - waiting_first < WAITING_AT_MOST) {
        waiting[waiting_next++ % WAITING_AT_MOST] = due;
    } else {
        count_error("the subject cannot keep up");
    }
}

/* Sends at moments of a Poisson process until a time; gives the next moment. */
static double send_at_rate(double next, double until, double rate)
{
    struct epoll_event ready[READY_AT_ONCE];
    while (next < until) {
        int count = wait_until(next, ready);
        for (int i = 0; i < count; i++)
            if (ready[i].data.ptr)
                read_answer(ready[i].data.ptr);
        while (next <= now()) {
            request_due(next);
            next -= log(1 - drand48()) / rate;
        }
    }
    return next;
}

static void pace(double rate, double seconds, int connections)
{
    struct connection *all = zeroed(connections, sizeof *all);
    idle = zeroed(connections, sizeof *idle);
    for (int i = 0; i < connections; i++) {
        all[i].fd = connect_to(port);
        watch(all[i].fd, &all[i]);
        idle[idle_count++] = &all[i];
    }
    srand48(1);
    double warm = now() + 0.5, begin, next = send_at_rate(now(), warm, rate);
    latencies.count = lateness.count = 0;
    begin = now();
    milestone("begin");
    send_at_rate(next, begin + seconds, rate);
    milestone("end");
    printf("{\"seconds\": %.6f, \"answers\": %ld, \"errors\": %ld, \"unanswered\": %lu, "
           "\"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"late_p99_ms\": %.4f}\n",
           now() - begin, latencies.count, errors,
           waiting_next - waiting_first + connections - idle_count, percentile_ms(&latencies, 0.5),
           percentile_ms(&latencies, 0.9), percentile_ms(&latencies, 0.99),
           percentile_ms(&lateness, 0.99));
}

/* -- the command line ------------------------------------------------------------------------- */

int main(int count, char **words)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (count < 5) {
        fprintf(stderr, "see the head of load.c\n");
        return 2;
    }
    open_loop();
    port = atoi(words[2]);
    if (!strcmp(words[1], "upstream"))
        serve_upstream(port, atoi(words[3]), atof(words[4]) / 1e3);
    write_request(words[6]);
    if (!strcmp(words[1], "hold"))
        hold(atoi(words[3]), atof(words[4]), atof(words[5]));
    else
        pace(atof(words[3]), atof(words[4]), atoi(words[5]));
    return 0;
}

/* A load generator that is cheap enough to share a core with the mock engine.

       load closed  PORT REQUESTS SECONDS CONNECTIONS   each sends again when it has its answer
       load paced   PORT REQUESTS SECONDS RATE          so many a second, however long they take
       load streams PORT REQUESTS SECONDS STREAMS       so many at once, left when time is up

   REQUESTS is a file of whole HTTP requests with a NUL after each; they are taken in turn. Prints
   one JSON object: answers counted, failures with the first one's text, and the latencies in
   microseconds: of whole answers, or (streams) of chunks from the engine's write to our read.
   Streams are measured once all of them have begun, or after 5 s; `chunks` has the earlier ones too. */
#include "common.h"

#define PATIENCE (20 * SECOND) /* for answers after the last request */

enum { SIZE_LINE, DATA, DATA_END, TRAILER };

struct conn {
    int fd, busy, connecting;
    int which;                /* of the requests */
    int64_t sent;
    int status, in_body, chunked, framing, line, started;
    int64_t left;             /* bytes of the body or the chunk */
    int in_mark;
    int64_t mark;
    size_t head_size;
    char head[8192];
    struct conn *next_idle;
};

static int port, poller, timer;
static char **requests;
static size_t *request_sizes;
static int request_count, begun;
static struct conn *idle;
static int64_t *samples;
static size_t sample_count, sample_room;
static long answered, failed, chunks, started_streams, lost_streams;
static int open_count, measuring, streaming;
static char first_failure[300];

static void sample(int64_t value)
{
    if (sample_count == sample_room) {
        sample_room = sample_room ? 2 * sample_room : 1 << 16;
        samples = realloc(samples, sample_room * sizeof *samples);
    }
    samples[sample_count++] = value;
}

static void fail(const char *why, const char *more)
{
    if (failed++ == 0)
        snprintf(first_failure, sizeof first_failure, "%s %s", why, more);
}

static struct conn *dial(void)
{
    struct sockaddr_in address = loopback(port);
    struct conn *c = calloc(1, sizeof *c);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    set_nonblocking(c->fd);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        die("connect");
    c->connecting = 1; /* a gateway that does not accept must not hold up the load */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) < 0)
        die("epoll_ctl");
    open_count++;
    return c;
}

static void hang_up(struct conn *c)
{
    close(c->fd);
    open_count--;
    for (struct conn **at = &idle; *at; at = &(*at)->next_idle)
        if (*at == c) {
            *at = c->next_idle;
            break;
        }
    free(c);
}

static void send_request(struct conn *c)
{
    ssize_t sent = send(c->fd, requests[c->which], request_sizes[c->which], MSG_NOSIGNAL);
    (void)sent; /* after a reset, the read that follows sees it, and counts it */
}

static void ask(struct conn *c)
{
    c->which = begun++ % request_count;
    c->busy = 1;
    c->status = c->in_body = c->in_mark = c->started = 0;
    c->head_size = 0;
    c->sent = now_ns();
    if (!c->connecting)
        send_request(c);
}

static void connected(struct conn *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->connecting = 0;
    send_request(c);
}

/* Looks for the engine's stamps, "@nanoseconds@", wherever the writes were cut. */
static void scan(struct conn *c, const char *bytes, size_t size, int64_t now)
{
    for (size_t i = 0; i < size; i++) {
        char byte = bytes[i];
        if (!c->in_mark) {
            const char *at = memchr(bytes + i, '@', size - i);
            if (!at)
                return;
            i = at - bytes;
            c->in_mark = 1;
            c->mark = 0;
        } else if (byte >= '0' && byte <= '9') {
            c->mark = c->mark * 10 + (byte - '0');
        } else {
            c->in_mark = 0;
            if (byte != '@' || c->mark == 0)
                continue;
            chunks++;
            if (!c->started++)
                started_streams++;
            if (measuring)
                sample(now - c->mark);
        }
    }
}

/* Takes the head apart; false if this is no HTTP answer that we can follow. */
static int begin_body(struct conn *c)
{
    if (strncmp(c->head, "HTTP/1.", 7) != 0)
        return 0;
    c->status = atoi(c->head + 9);
    const char *coding = header(c->head, "transfer-encoding");
    const char *length = header(c->head, "content-length");
    c->chunked = coding && strncasecmp(coding, "chunked", 7) == 0;
    c->framing = SIZE_LINE;
    c->left = c->chunked ? 0 : length ? atoll(length) : INT64_MAX; /* until the end */
    c->line = 0;
    c->in_body = 1;
    return 1;
}

/* Reads on in an answer; the number of bytes taken, and in *done whether it is whole. */
static size_t feed(struct conn *c, const char *bytes, size_t size, int64_t now, int *done)
{
    size_t at = 0;
    while (at < size && !c->in_body) {
        if (c->head_size == sizeof c->head - 1)
            return size;
        c->head[c->head_size++] = bytes[at++];
        c->head[c->head_size] = 0;
        if (bytes[at - 1] == '\n' && c->head_size >= 4 && memcmp(c->head + c->head_size - 4, "\r\n\r\n", 4) == 0)
            if (!begin_body(c))
                return size;
    }
    if (!c->in_body)
        return at;
    if (!c->chunked) {
        size_t part = size - at < (size_t)c->left ? size - at : (size_t)c->left;
        if (streaming)
            scan(c, bytes + at, part, now);
        c->left -= part;
        *done = c->left == 0;
        return at + part;
    }
    while (at < size) {
        char byte = bytes[at];
        if (c->framing == DATA) {
            size_t part = size - at < (size_t)c->left ? size - at : (size_t)c->left;
            if (streaming)
                scan(c, bytes + at, part, now);
            at += part;
            if ((c->left -= part) == 0)
                c->framing = DATA_END;
            continue;
        }
        at++;
        if (byte == '\r')
            continue;
        if (byte != '\n') {
            c->line++;
            int digit = byte >= 'a' ? byte - 'a' + 10 : byte >= 'A' ? byte - 'A' + 10 : byte - '0';
            if (c->framing == SIZE_LINE)
                c->left = c->left * 16 + digit;
            continue;
        }
        if (c->framing == DATA_END) {
            c->framing = SIZE_LINE;
            c->left = 0;
        } else if (c->framing == SIZE_LINE) {
            c->framing = c->left ? DATA : TRAILER;
        } else if (c->line == 0) {
            *done = 1;
            return at;
        }
        c->line = 0;
    }
    return at;
}

static void got_answer(struct conn *c, int64_t now, const char *bytes)
{
    c->busy = 0;
    if (c->status != 200) {
        char why[40];
        snprintf(why, sizeof why, "status %d", c->status);
        fail(why, bytes);
        return;
    }
    answered++;
    if (measuring && !streaming)
        sample(now - c->sent);
}

enum { KEPT, ANSWERED, ENDED };

static int readable(struct conn *c)
{
    static char bytes[1 << 18];
    ssize_t got = recv(c->fd, bytes, sizeof bytes - 1, 0);
    if (got < 0 && errno == EAGAIN)
        return KEPT;
    int64_t now = now_ns();
    if (got <= 0) {
        if (c->busy && c->in_body && !c->chunked && c->left > INT64_MAX / 2)
            got_answer(c, now, "");
        else if (c->busy)
            fail("connection ended", got < 0 ? strerror(errno) : c->in_body ? "within an answer" : "without an answer");
        return ENDED;
    }
    bytes[got] = 0;
    int done = 0;
    size_t at = 0;
    while (!done && at < (size_t)got && c->busy)
        at += feed(c, bytes + at, got - at, now, &done);
    if (!done)
        return KEPT;
    got_answer(c, now, bytes);
    const char *connection = header(c->head, "connection");
    return connection && strncasecmp(connection, "close", 5) == 0 ? ENDED : ANSWERED;
}

static void read_requests(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path);
    static char all[1 << 24];
    size_t size = fread(all, 1, sizeof all, file);
    fclose(file);
    requests = calloc(size + 1, sizeof *requests);
    request_sizes = calloc(size + 1, sizeof *request_sizes);
    for (size_t at = 0; at < size; at += request_sizes[request_count++] + 1) {
        requests[request_count] = all + at;
        request_sizes[request_count] = strlen(all + at);
    }
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double share)
{
    return sample_count ? samples[(size_t)(share * (sample_count - 1))] / 1e3 : 0;
}

static void report(double seconds)
{
    qsort(samples, sample_count, sizeof *samples, by_size);
    for (char *at = first_failure; *at; at++)
        if (*at == '"' || *at == '\\' || *at < ' ' || *at > '~')
            *at = '\'';
    printf("{\"seconds\": %.3f, \"answered\": %ld, \"failed\": %ld, \"samples\": %zu, "
           "\"chunks\": %ld, \"started_streams\": %ld, \"lost_streams\": %ld, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f, \"first_failure\": \"%s\"}\n",
           seconds, answered, failed, sample_count, chunks, started_streams, lost_streams,
           percentile(0.5), percentile(0.99), percentile(1), first_failure);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: load closed|paced|streams PORT REQUESTS SECONDS NUMBER\n");
        return 2;
    }
    int paced = strcmp(argv[1], "paced") == 0, number = atoi(argv[5]);
    streaming = strcmp(argv[1], "streams") == 0;
    port = atoi(argv[2]);
    read_requests(argv[3]);
    int64_t length = (int64_t)(atof(argv[4]) * SECOND);
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(poller, timer, &timer);

    int64_t begin = now_ns(), end = begin + length, settled = 0;
    int64_t step = paced ? SECOND / number : 0, next_at = begin;
    /* Streams are begun over a second, and counted once all run (or 5 s after). */
    if (streaming)
        step = SECOND / number;
    measuring = !streaming;
    for (int i = 0; !paced && !streaming && i < number; i++)
        ask(dial());
    struct epoll_event events[512];
    for (;;) {
        int64_t now = now_ns();
        if (streaming && !settled && begun == number && (started_streams == number || now > next_at + 5 * SECOND)) {
            settled = begin = now;
            end = now + length;
            measuring = 1;
        }
        int more = paced ? now < end : streaming && begun < number;
        while (more && next_at <= now) {
            struct conn *c = idle;
            if (c)
                idle = c->next_idle;
            else
                c = dial();
            ask(c);
            next_at += step;
            more = paced ? now < end : begun < number;
        }
        if (now >= end && (!streaming || settled)) {
            if (streaming || begun == answered + failed)
                break;
            if (now > end + PATIENCE) {
                while (begun > answered + failed)
                    fail("no answer", "within 20 s");
                break;
            }
        }
        int64_t wake = now < end ? end : now + SECOND / 10;
        if (streaming && !settled)
            wake = now + SECOND / 50;
        arm(timer, more && next_at < wake ? next_at : wake);
        int count = epoll_wait(poller, events, 512, -1);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (events[i].data.ptr == &timer)
                continue;
            if (c->connecting)
                connected(c); /* or refused, as the read says */
            int was_busy = c->busy, result = readable(c);
            if (streaming && was_busy && result != KEPT)
                lost_streams += now_ns() < end || !settled;
            if (result == ENDED) {
                hang_up(c);
                if (!paced && !streaming && now < end)
                    ask(dial());
            } else if (result == ANSWERED && paced) {
                c->next_idle = idle;
                idle = c;
            } else if (result == ANSWERED && !streaming && now < end) {
                ask(c);
            }
        }
    }
    /* Until the last answer, so that what a request costs can be told exactly. */
    report(((streaming || paced ? end : now_ns()) - begin) / 1e9);
    return 0;
}

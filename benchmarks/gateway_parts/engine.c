/* A mock engine: OpenAI's chat API on loopback, at a few microseconds a request.

       engine PORT

   The prompt says how to answer, since every gateway passes prompts on:
     "delay:50"             milliseconds before an answer that is not streamed
     "chunks:500 rate:50"   a stream of 500 chunks, 50 a second; rate:0 sends them at once
   Each chunk has the time of its sending, "@nanoseconds@" of CLOCK_MONOTONIC, as its text. */
#include "common.h"

#define REQUEST_MAX 65536

struct conn {
    int fd;
    int active;           /* its place in `actives`, or -1 */
    int stream, usage;
    long chunks;          /* still to be sent */
    int64_t due, period;
    size_t have, rest_size;
    char rest[2048];      /* what the socket did not take */
    char in[REQUEST_MAX]; /* last: its pages stay untouched until they are used */
};

static struct conn **actives;
static int active_count, active_room;
static double phase;      /* spreads the streams over a period */

static const char PIECE[] =
    "data: {\"id\":\"chatcmpl-8f14e45fceea167a\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763733600,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":"
    "{\"content\":\"@%019lld@\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char FIRST[] =
    "data: {\"id\":\"chatcmpl-8f14e45fceea167a\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763733600,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":"
    "{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char STOP[] =
    "data: {\"id\":\"chatcmpl-8f14e45fceea167a\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763733600,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{},"
    "\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";
static const char USAGE[] =
    "data: {\"id\":\"chatcmpl-8f14e45fceea167a\",\"object\":\"chat.completion.chunk\","
    "\"created\":1763733600,\"model\":\"bench\",\"choices\":[],\"usage\":{\"prompt_tokens\":90,"
    "\"completion_tokens\":16,\"total_tokens\":106}}\n\n";
static const char ANSWER[] =
    "{\"id\":\"chatcmpl-8f14e45fceea167a\",\"object\":\"chat.completion\",\"created\":1763733600,"
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
    "\"content\":\"A gateway is one address in front of many machines.\"},\"logprobs\":null,"
    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":90,\"completion_tokens\":16,"
    "\"total_tokens\":106,\"prompt_tokens_details\":{\"cached_tokens\":64}}}";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1763733600,"
    "\"owned_by\":\"benchmark\",\"max_model_len\":131072}],\"model_path\":\"bench\"}";

static void deactivate(struct conn *c)
{
    if (c->active < 0)
        return;
    actives[c->active] = actives[--active_count];
    actives[c->active]->active = c->active;
    c->active = -1;
}

static void activate(struct conn *c)
{
    if (active_count == active_room) {
        active_room = active_room ? 2 * active_room : 64;
        actives = realloc(actives, active_room * sizeof *actives);
    }
    c->active = active_count;
    actives[active_count++] = c;
}

/* False when the socket takes nothing: the piece is then not sent at all. */
static int put(struct conn *c, const char *what, size_t size)
{
    if (c->rest_size) {
        ssize_t sent = send(c->fd, c->rest, c->rest_size, MSG_NOSIGNAL);
        if (sent > 0)
            memmove(c->rest, c->rest + sent, c->rest_size -= sent);
        if (c->rest_size)
            return 0;
    }
    ssize_t sent = send(c->fd, what, size, MSG_NOSIGNAL);
    if (sent <= 0)
        return 0;
    memcpy(c->rest, what + sent, c->rest_size = size - sent);
    return 1;
}

static void put_json(struct conn *c, const char *body)
{
    char out[1024];
    int size = snprintf(out, sizeof out,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    put(c, out, size);
}

static int in_chunk(char *out, const char *event)
{
    return sprintf(out, "%zx\r\n%s\r\n", strlen(event), event);
}

static void finish_stream(struct conn *c)
{
    char out[2000];
    int size = in_chunk(out, STOP);
    if (c->usage)
        size += in_chunk(out + size, USAGE);
    size += in_chunk(out + size, "data: [DONE]\n\n");
    size += sprintf(out + size, "0\r\n\r\n");
    if (put(c, out, size))
        deactivate(c);
}

/* What is due of one answer at `now`; each chunk is a write of its own, as engines do it. */
static void proceed(struct conn *c, int64_t now)
{
    if (!c->stream) {
        put_json(c, ANSWER);
        deactivate(c);
        return;
    }
    do {
        if (c->chunks == 0) {
            finish_stream(c);
            c->due = now + SECOND / 100;
            return;
        }
        char event[512], out[600];
        sprintf(event, PIECE, (long long)now_ns());
        int size = in_chunk(out, event);
        if (!put(c, out, size)) {
            c->due = now + (c->period ? c->period : SECOND / 1000);
            return; /* the reader is slower than what is offered */
        }
        c->chunks--;
        c->due += c->period;
    } while (c->period == 0);
}

static void answer(struct conn *c, const char *body, size_t size)
{
    int64_t now = now_ns();
    if (strncmp(c->in, "GET ", 4) == 0) {
        put_json(c, MODELS);
        return;
    }
    c->stream = memmem(body, size, "\"stream\":true", 13) || memmem(body, size, "\"stream\": true", 14);
    if (!c->stream) {
        long delay = number_after(body, size, "delay:", 0);
        if (delay == 0) {
            put_json(c, ANSWER);
            return;
        }
        c->due = now + delay * 1000000;
        activate(c);
        return;
    }
    char out[1024];
    int used = sprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                            "Transfer-Encoding: chunked\r\n\r\n");
    put(c, out, used + in_chunk(out + used, FIRST));
    long rate = number_after(body, size, "rate:", 0);
    c->usage = memmem(body, size, "include_usage", 13) != NULL;
    c->chunks = number_after(body, size, "chunks:", 16);
    c->period = rate ? SECOND / rate : 0;
    phase += 0.6180339887;
    phase -= (int)phase;
    c->due = now + (int64_t)(c->period * phase);
    activate(c);
}

/* The size of the request at the start of `in`, once it is whole; 0 before. */
static size_t whole(struct conn *c, char **body)
{
    c->in[c->have] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return 0;
    *body = end + 4;
    end[2] = 0;
    const char *length = header(c->in, "content-length");
    int chunked = header(c->in, "transfer-encoding") != NULL;
    end[2] = '\r';
    size_t head = *body - c->in;
    if (chunked)
        return c->have > head + 4 && memcmp(c->in + c->have - 5, "0\r\n\r\n", 5) == 0 ? c->have : 0;
    size_t size = head + (length ? strtoul(length, NULL, 10) : 0);
    return c->have >= size ? size : 0;
}

static void closed(struct conn *c)
{
    deactivate(c);
    close(c->fd);
    free(c);
}

static void readable(struct conn *c)
{
    ssize_t got = recv(c->fd, c->in + c->have, REQUEST_MAX - 1 - c->have, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        closed(c);
        return;
    }
    c->have += got;
    char *body;
    size_t size;
    while (c->active < 0 && (size = whole(c, &body))) {
        answer(c, body, size - (body - c->in));
        memmove(c->in, c->in + size, c->have -= size);
    }
}

static void accept_all(int listener, int poller)
{
    int fd;
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        struct conn *c = malloc(sizeof *c);
        memset(c, 0, offsetof(struct conn, in));
        c->fd = fd;
        c->active = -1;
        set_nonblocking(fd);
        watch(poller, fd, c);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: engine PORT\n");
        return 2;
    }
    phase = (getpid() % 97) / 97.0;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = loopback(atoi(argv[1]));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    set_nonblocking(listener);
    int poller = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(poller, listener, &listener);
    watch(poller, timer, &timer);
    struct epoll_event events[256];
    for (;;) {
        int64_t next = INT64_MAX;
        for (int i = 0; i < active_count; i++)
            if (actives[i]->due < next)
                next = actives[i]->due;
        arm(timer, next);
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &listener)
                accept_all(listener, poller);
            else if (events[i].data.ptr != &timer)
                readable(events[i].data.ptr);
        }
        int64_t now = now_ns();
        for (int i = active_count - 1; i >= 0; i--) /* backwards: `proceed` may take one out */
            if (actives[i]->due <= now)
                proceed(actives[i], now);
    }
}

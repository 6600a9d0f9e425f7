/* What the mock engine and the load generator share: time, sockets on loopback, look-ups. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

/* CLOCK_MONOTONIC is one clock for all processes of a machine: stamps can be compared. */
static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static inline void die(const char *what)
{
    fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    exit(1);
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void set_nonblocking(int fd)
{
    int one = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline void watch(int poller, int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

/* Wakes epoll at `due` (epoll's own timeout has milliseconds only); never, for INT64_MAX. */
static inline void arm(int timer, int64_t due)
{
    struct itimerspec when = {0};
    if (due != INT64_MAX) {
        when.it_value.tv_sec = due / SECOND;
        when.it_value.tv_nsec = due % SECOND + (due == 0);
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* The number after `label`, or `otherwise`. */
static inline long number_after(const char *in, size_t size, const char *label, long otherwise)
{
    const char *at = memmem(in, size, label, strlen(label));
    return at ? strtol(at + strlen(label), NULL, 10) : otherwise;
}

/* The value of a header within a head that ends with NUL, or NULL. */
static inline const char *header(const char *head, const char *name)
{
    size_t size = strlen(name);
    for (const char *line = head; (line = strstr(line, "\r\n"));) {
        line += 2;
        if (strncasecmp(line, name, size) == 0 && line[size] == ':')
            return line + size + 1 + strspn(line + size + 1, " ");
    }
    return NULL;
}

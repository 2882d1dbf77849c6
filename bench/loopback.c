/* A fast HTTP/1.1 server on loopback: the same answer to every request, as little work as possible.
 *
 *     loopback ANSWER_FILE
 *
 * ANSWER_FILE holds the whole answer, head and body. The port goes to stdout; the server ends with its standard input.
 * Requests are framed by their Content-Length; nothing else is looked at. It never sleeps: waking a sleeping process costs the
 * one that sends to it several times what sending costs, and how often that happens depends on how fast the sender is.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, EVENTS = 256 };

struct connection {
    int fd;
    size_t used;
    char data[MOST + 1];
};

static char *answer;
static size_t answer_size;

static void drop(struct connection *c) {
    close(c->fd);
    free(c);
}

/* The size of the first request in the buffer; 0 while it is not whole. */
static size_t request_size(struct connection *c) {
    c->data[c->used] = 0;
    char *end = strstr(c->data, "\r\n\r\n");
    if (!end) return 0;
    size_t size = end + 4 - c->data;
    char *length = strcasestr(c->data, "\r\ncontent-length:");
    if (length && length < end) size += strtoul(length + 17, NULL, 10);
    return size <= c->used ? size : 0;
}

/* Take in what has come and answer what is whole. Gives 0 when the connection is over. */
static int serve(struct connection *c) {
    ssize_t got = recv(c->fd, c->data + c->used, MOST - c->used, 0);
    if (got <= 0) return 0;
    c->used += got;
    for (size_t size; (size = request_size(c));) {
        if (send(c->fd, answer, answer_size, MSG_NOSIGNAL) != (ssize_t)answer_size) return 0;
        c->used -= size;
        memmove(c->data, c->data + size, c->used);
    }
    return c->used < MOST;
}

int main(int count, char **arguments) {
    FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    if (!file) return 2;
    answer = malloc(MOST);
    answer_size = fread(answer, 1, MOST, file);
    fclose(file);

    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof place;
    if (bind(listener, (struct sockaddr *)&place, size) || listen(listener, 1024)) return 1;
    getsockname(listener, (struct sockaddr *)&place, &size);
    printf("%d\n", ntohs(place.sin_port));
    fflush(stdout);

    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener}, events[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = NULL; /* standard input */
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, 0); /* never asleep */
        for (int i = 0; i < ready; i++) {
            if (!events[i].data.ptr) return 0;
            if (events[i].data.ptr != &listener) {
                if (!serve(events[i].data.ptr)) drop(events[i].data.ptr);
                continue;
            }
            struct connection *c = malloc(sizeof *c);
            c->used = 0;
            c->fd = accept(listener, NULL, NULL);
            setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            event.data.ptr = c;
            epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
        }
    }
}

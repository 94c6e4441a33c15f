// SPDX-License-Identifier: GPL-2.0
/*
 * peer: the other end of a link. It receives what it is told to, when it is told to, and says
 * what was wrong with it (peer.h). Usage: peer [PORT]; it ends with its standard input.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer.h"

#define QUIET_MS	30000	/* when no more datagrams are to be expected */

struct session {
	struct session *next;
	struct peer_hello hello;
	struct peer_report report;
	int control, data;
	unsigned int goes, replies;	/* commands that were not obeyed yet */
	bool over;			/* the control connection has ended */
	unsigned int users;
};

/* Of all sessions: there are few, and they do little. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct session *sessions;
static in_port_t port = PEER_PORT;

static bool read_all(int fd, void *to, size_t len)
{
	return !len || recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

/* Waits for a command, and obeys it; false if the session is over. */
static bool await(struct session *s, unsigned int *command)
{
	bool told;

	pthread_mutex_lock(&lock);
	while (!*command && !s->over)
		pthread_cond_wait(&changed, &lock);
	told = *command;
	*command -= told;
	pthread_mutex_unlock(&lock);
	return told;
}

static void count(struct session *s, size_t received, bool record, struct peer_report *found)
{
	struct peer_report *r = &s->report;

	pthread_mutex_lock(&lock);
	if (found->bad && !r->bad)
		r->first_bad = found->first_bad;
	r->bad += found->bad;
	r->overwritten += found->overwritten;
	r->received += received;
	r->records += record;
	pthread_mutex_unlock(&lock);
}

/* @at: the offset where it belongs */
static void check(struct session *s, const unsigned char *came, size_t len, uint64_t at, bool record)
{
	struct peer_report found = { 0 };
	size_t i;

	for (i = 0; i < len; i++) {
		if (came[i] == peer_byte(s->hello.seed, at + i))
			continue;
		if (!found.bad++)
			found.first_bad = at + i;
		found.overwritten += came[i] == PEER_OVERWRITTEN;
	}
	count(s, len, record, &found);
}

/* Returns how it ended: 0 or an errno. */
static int receive_stream(struct session *s)
{
	unsigned char *chunk = malloc(65536);
	ssize_t n = 0;

	if (await(s, &s->goes)) {
		while ((n = recv(s->data, chunk, 65536, 0)) > 0) {
			check(s, chunk, n, s->report.received, false);
			if (s->hello.pause_us)
				usleep(s->hello.pause_us);
		}
	}
	free(chunk);
	return n < 0 ? errno : 0;
}

/* Which of those not @seen begins so, for they may come in any order; or the next, if none does. */
static uint64_t datagram_offset(struct session *s, const unsigned char *came, size_t len,
				uint64_t *seen)
{
	unsigned int i, n = len ? s->hello.bytes / len : 0;
	size_t same;

	for (i = 0; i < n && i < 64; i++) {
		if (*seen & 1ULL << i)
			continue;
		for (same = 0; same < len && same < 16; same++)
			if (came[same] != peer_byte(s->hello.seed, i * len + same))
				break;
		if (same == len || same == 16) {
			*seen |= 1ULL << i;
			return i * len;
		}
	}
	return s->report.received;
}

static int receive_datagrams(struct session *s)
{
	struct pollfd pfd = { .fd = s->data, .events = POLLIN };
	unsigned char *chunk = malloc(65536);
	uint64_t seen = 0;
	ssize_t n;

	while (s->report.received < s->hello.bytes && !s->over) {
		if (poll(&pfd, 1, QUIET_MS) != 1)
			break;
		n = recv(s->data, chunk, 65536, 0);
		if (n < 0)
			break;
		check(s, chunk, n, datagram_offset(s, chunk, n, &seen), true);
	}
	free(chunk);
	return 0;
}

/* Whether a word was overwritten, be it in part: a segment may end within it. */
static bool is_overwritten(uint32_t came, uint32_t expected)
{
	uint32_t mask;

	for (mask = 0xff; mask; mask <<= 8)
		if ((came & mask) != (expected & mask) && (came & mask) != (RPC_OVERWRITTEN & mask))
			return false;
	return true;
}

/*
 * The first of a kind is answered when we are told to, and only then, told again, we go on to
 * read: its duplicates wait.
 */
static int receive_records(struct session *s)
{
	uint32_t last = 0, i, *words = NULL;
	struct rpc_header h;

	while (read_all(s->data, &h, sizeof(h))) {
		struct rpc_reply reply = { PEER_MAGIC, h.xid };
		struct peer_report found = { 0 };

		if (h.magic != PEER_MAGIC || h.words > 1 << 20)
			break;
		words = realloc(words, h.words * sizeof(*words));
		if (!read_all(s->data, words, h.words * sizeof(*words)))
			break;
		for (i = 0; i < h.words; i++) {
			if (words[i] == RPC_WORD(h.xid, i))
				continue;
			if (!found.bad++)
				found.first_bad = s->report.received + i * sizeof(*words);
			found.overwritten += is_overwritten(words[i], RPC_WORD(h.xid, i));
		}
		count(s, sizeof(h) + h.words * sizeof(*words), true, &found);
		if (h.xid == last)
			continue;
		last = h.xid;
		if (!await(s, &s->replies) ||
		    send(s->data, &reply, sizeof(reply), MSG_NOSIGNAL) != sizeof(reply) ||
		    !await(s, &s->goes))
			break;
	}
	free(words);
	return 0;
}

static void receive(struct session *s)
{
	int error = 0;

	switch (s->hello.kind) {
	case PEER_TCP:
		error = receive_stream(s);
		break;
	case PEER_UDP:
		error = receive_datagrams(s);
		break;
	case PEER_RPC:
		error = receive_records(s);
		break;
	}
	pthread_mutex_lock(&lock);
	s->report.error = error;
	s->report.ended = true;
	/* From now on the number may be somebody else's. */
	close(s->data);
	s->data = -1;
	s->users--;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void *udp_thread(void *arg)
{
	receive(arg);
	return NULL;
}

/* Only what the session's sender sends, on the port that is everybody's. */
static int udp_socket(struct session *s)
{
	struct sockaddr_in6 here = { 0 }, there = { 0 };
	socklen_t len = sizeof(there);
	int one = 1, fd = socket(AF_INET6, SOCK_DGRAM, 0), size = 4 << 20;
	pthread_t thread;

	if (getsockname(s->control, (struct sockaddr *)&here, &len) ||
	    getpeername(s->control, (struct sockaddr *)&there, &len))
		return -1;
	there.sin6_port = s->hello.udp_port;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)) ||
	    connect(fd, (struct sockaddr *)&there, sizeof(there)))
		return -1;
	s->data = fd;
	s->users++;
	return pthread_create(&thread, NULL, udp_thread, s) ?: pthread_detach(thread);
}

static void command(struct session *s, char c)
{
	struct peer_report report;

	pthread_mutex_lock(&lock);
	s->goes += c == PEER_GO;
	s->replies += c == PEER_REPLY;
	pthread_cond_broadcast(&changed);
	/* Whoever waits for the end is not heard meanwhile. */
	while (c == PEER_END && !s->report.ended)
		pthread_cond_wait(&changed, &lock);
	report = s->report;
	pthread_mutex_unlock(&lock);
	if (c == PEER_NOW || c == PEER_END)
		send(s->control, &report, sizeof(report), MSG_NOSIGNAL);
}

static void session(int fd, struct peer_hello *hello)
{
	struct session *s = calloc(1, sizeof(*s)), **link;
	char c;

	s->hello = *hello;
	s->control = fd;
	s->data = -1;
	s->report.magic = PEER_MAGIC;
	if (hello->kind == PEER_UDP && udp_socket(s)) {
		fprintf(stderr, "peer: no UDP socket: %s\n", strerror(errno));
		return;
	}
	pthread_mutex_lock(&lock);
	s->next = sessions;
	sessions = s;
	pthread_mutex_unlock(&lock);

	send(fd, &s->report, sizeof(s->report), MSG_NOSIGNAL);
	while (recv(fd, &c, 1, 0) == 1)
		command(s, c);

	pthread_mutex_lock(&lock);
	for (link = &sessions; *link != s; link = &(*link)->next)
		;
	*link = s->next;
	s->over = true;
	if (s->data >= 0)
		shutdown(s->data, SHUT_RDWR);
	pthread_cond_broadcast(&changed);
	while (s->users)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	free(s);
}

static void data(int fd, uint64_t token)
{
	struct session *s;

	pthread_mutex_lock(&lock);
	for (s = sessions; s && s->hello.token != token; s = s->next)
		;
	if (s) {
		s->data = fd;
		s->users++;
	}
	pthread_mutex_unlock(&lock);
	if (s)
		receive(s);
	else
		close(fd);
}

static void *connection(void *arg)
{
	int fd = (long)arg;
	struct peer_hello hello;

	if (read_all(fd, &hello, sizeof(hello)) && hello.magic == PEER_MAGIC) {
		if (hello.kind == PEER_DATA) {
			data(fd, hello.token);
			return NULL;
		}
		session(fd, &hello);
	}
	close(fd);
	return NULL;
}

int main(int argc, char **argv)
{
	struct pollfd pfd[2] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN } };
	struct sockaddr_in6 here = { .sin6_family = AF_INET6 };
	int listener = socket(AF_INET6, SOCK_STREAM, 0), one = 1;
	int window = 64 << 10;	/* small and fixed: what is sent unread beyond it stays there */
	pthread_attr_t attr;
	pthread_t thread;
	char byte;

	if (argc > 1)
		port = atoi(argv[1]);
	here.sin6_port = htons(port);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &window, sizeof(window));
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) || listen(listener, 64)) {
		fprintf(stderr, "peer: port %u: %s\n", port, strerror(errno));
		return 1;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pfd[1].fd = listener;
	while (poll(pfd, 2, -1) > 0) {
		long fd;

		if (pfd[0].revents && read(0, &byte, 1) <= 0)
			return 0;
		if (!pfd[1].revents)
			continue;
		fd = accept(listener, NULL, NULL);
		if (fd >= 0 && pthread_create(&thread, &attr, connection, (void *)fd))
			close(fd);
	}
	return 1;
}

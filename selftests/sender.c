// SPDX-License-Identifier: GPL-2.0
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "sender.h"

unsigned int peer_port = PEER_PORT;

const char * const mode_names[] = { "copy", "splice", "guard" };

int mode_by_name(const char *name)
{
	int i;

	for (i = 0; i <= PIN_GUARD_TX_GUARD; i++)
		if (!strcmp(mode_names[i], name))
			return i;
	return -1;
}

int tx_open(void)
{
	return open(TX_DEVICE, O_RDWR | O_CLOEXEC);
}

int tx_send(int dev, struct pin_guard_tx_send *send)
{
	return ioctl(dev, PIN_GUARD_TX_SEND, send) ? errno : 0;
}

int tx_batch(int dev, struct pin_guard_tx_batch *batch)
{
	return ioctl(dev, PIN_GUARD_TX_BATCH, batch) ? errno : 0;
}

int tx_status(int dev, uint64_t id, struct pin_guard_tx_status *status)
{
	memset(status, 0, sizeof(*status));
	status->id = id;
	return ioctl(dev, PIN_GUARD_TX_STATUS, status) ? errno : 0;
}

int tx_wait(int dev, uint64_t id, unsigned int timeout_ms, struct pin_guard_tx_status *status)
{
	memset(status, 0, sizeof(*status));
	status->id = id;
	status->timeout_ms = timeout_ms;
	return ioctl(dev, PIN_GUARD_TX_WAIT, status) ? errno : 0;
}

int tx_abort(int dev, uint64_t id)
{
	return ioctl(dev, PIN_GUARD_TX_ABORT, &id) ? errno : 0;
}

static int connect_to(const char *address, int type, struct peer_hello *hello)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = type }, *to;
	struct sockaddr_storage here = { 0 };
	socklen_t len = sizeof(here);
	char port[8];
	int fd, err;

	snprintf(port, sizeof(port), "%u", peer_port);
	err = getaddrinfo(address, port, &hints, &to);
	must(!err, "%s: %s", address, gai_strerror(err));
	fd = socket(to->ai_family, type | SOCK_CLOEXEC, 0);
	must(fd >= 0, "socket: %s", strerror(errno));
	must(!connect(fd, to->ai_addr, to->ai_addrlen), "no peer at %s port %u: %s", address,
	     peer_port, strerror(errno));
	freeaddrinfo(to);
	if (type == SOCK_DGRAM) {
		getsockname(fd, (struct sockaddr *)&here, &len);
		hello->udp_port = ((struct sockaddr_in *)&here)->sin_port;	/* or in6 */
	} else {
		must(send(fd, hello, sizeof(*hello), MSG_NOSIGNAL) == sizeof(*hello),
		     "hello: %s", strerror(errno));
	}
	return fd;
}

static struct peer_report report_read(struct session *s)
{
	struct peer_report report;

	must(recv(s->control, &report, sizeof(report), MSG_WAITALL) == sizeof(report) &&
	     report.magic == PEER_MAGIC, "the peer does not report: %s", strerror(errno));
	return report;
}

void session_open(struct session *s, const char *address, struct peer_hello hello)
{
	int one = 1;

	hello.magic = PEER_MAGIC;
	must(getrandom(&hello.token, sizeof(hello.token), 0) == sizeof(hello.token), "no token");
	s->seed = hello.seed;
	s->sent = 0;
	if (hello.kind == PEER_UDP)
		s->data = connect_to(address, SOCK_DGRAM, &hello);
	s->control = connect_to(address, SOCK_STREAM, &hello);
	setsockopt(s->control, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	report_read(s);
	if (hello.kind == PEER_UDP)
		return;
	hello.kind = PEER_DATA;
	s->data = connect_to(address, SOCK_STREAM, &hello);
}

void session_command(struct session *s, enum peer_command command)
{
	char c = command;

	must(send(s->control, &c, 1, MSG_NOSIGNAL) == 1, "the peer cannot be told: %s",
	     strerror(errno));
}

struct peer_report session_report(struct session *s, enum peer_command command)
{
	session_command(s, command);
	return report_read(s);
}

void send_room(int fd, int bytes)
{
	must(!setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)),
	     "SO_SNDBUFFORCE: %s", strerror(errno));
}

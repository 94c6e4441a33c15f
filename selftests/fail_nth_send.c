// SPDX-License-Identifier: GPL-2.0
/* Sends through /dev/pin_guard_tx, with a fault; the other end is peer. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fail_nth.h"
#include "page.h"
#include "sender.h"

#define MODE_REGISTERED	3	/* guard, of a registered buffer */
#define SMALL		100
#define SMALL_SENDS	300	/* a chain takes 256 */

static struct session s;
static int dev;

/* What goes out next, not at the start of a page; no page is in a large folio. */
static unsigned char *stream(size_t len)
{
	unsigned char *p = mmap(NULL, len + 2 * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t i;

	must(p != MAP_FAILED, "no memory");
	madvise(p, len + 2 * PAGE, MADV_NOHUGEPAGE);
	p += 77;
	for (i = 0; i < len; i++)
		p[i] = peer_byte(s.seed, i);
	return p;
}

static void begin(int kind, size_t bytes)
{
	dev = tx_open();
	must(dev >= 0, TX_DEVICE ": %s", strerror(errno));
	session_open(&s, peer_address, (struct peer_hello){
		.kind = kind, .seed = getpid(), .bytes = bytes,
	});
}

/* The peer has got what the socket took, and that as it was. */
static void end(int err)
{
	struct peer_report r;

	if (!err)
		shutdown(s.data, SHUT_WR);
	r = session_report(&s, err && !s.sent ? PEER_NOW : PEER_END);
	must(!r.bad, "%llu of %llu bytes are wrong, %llu overwritten, first at %llu",
	     (unsigned long long)r.bad, (unsigned long long)r.received,
	     (unsigned long long)r.overwritten, (unsigned long long)r.first_bad);
	must(r.received == s.sent, "%llu bytes came, %llu were sent",
	     (unsigned long long)r.received, (unsigned long long)s.sent);
	if (err)
		refused(err);
	pass();
}

static struct pin_guard_tx_send request(void *addr, size_t len)
{
	return (struct pin_guard_tx_send){
		.addr = (unsigned long)addr, .len = len, .fd = s.data,
		.mode = send_mode == MODE_REGISTERED ? PIN_GUARD_TX_GUARD : send_mode,
	};
}

static int register_buffer(void *addr, size_t len, uint64_t *buffer)
{
	struct pin_guard_tx_buffer b = { .addr = (unsigned long)addr, .len = len };
	int err = ioctl(dev, PIN_GUARD_TX_REGISTER, &b) ? errno : 0;

	*buffer = b.buffer;
	return err;
}

/* The memory may be reused now, and is. */
static void reuse(unsigned char *p, size_t len)
{
	struct pin_guard_tx_status st;

	if (send_mode == PIN_GUARD_TX_SPLICE)
		return;
	must(!tx_wait(dev, 0, 20000, &st), "not complete: %u of %u in flight", st.in_flight,
	     st.requests);
	memset(p, PEER_OVERWRITTEN, len);
}

/* One send of @len bytes that the peer does not read before it is told to. */
static void one(size_t len, int room)
{
	struct pin_guard_tx_send r;
	struct pin_guard_tx_status st;
	unsigned char *p;
	uint64_t buffer;
	int err;

	begin(PEER_TCP, 0);
	send_room(s.data, room);
	p = stream(len);
	r = request(p, len);
	if (send_mode == MODE_REGISTERED) {
		must(!register_buffer(p, len, &buffer), "register: %s", strerror(errno));
		r.addr = 0;
		r.buffer = buffer;
	}
	arm();
	err = tx_send(dev, &r);
	disarm();
	must(!tx_status(dev, 0, &st), "status: %s", strerror(errno));
	must(st.requests == !err, "%u requests after %s", st.requests, strerror(err));
	s.sent = err ? 0 : r.sent;
	if (!err && send_mode >= PIN_GUARD_TX_GUARD)
		must(st.in_flight == 1 && st.pinned >= r.sent / PAGE,
		     "complete, though the peer has not read");
	session_command(&s, PEER_GO);
	/* The last reference on the device's file may be the send's. */
	if (getpid() % 2 && send_mode >= PIN_GUARD_TX_GUARD)
		close(dev);
	else
		reuse(p, len);
	shutdown(s.data, SHUT_WR);
	end(err);
}

static void run_tcp(void)
{
	one(200 * 1024 + 1, 1 << 20);
}

/* More than 1024 runs, which a workqueue releases */
static void run_tcp_big(void)
{
	one(1100 * PAGE, 16 << 20);
}

/* Behind what fills the way, so many that they are of more than one chain */
static void run_tcp_small(void)
{
	size_t plug = 512 << 10;
	int i, one = 1, err = 0, e;
	unsigned char *p;
	struct pin_guard_tx_send r;

	begin(PEER_TCP, 0);
	send_room(s.data, 4 << 20);
	setsockopt(s.data, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	p = stream(plug + SMALL_SENDS * SMALL);
	must(send(s.data, p, plug, 0) == (ssize_t)plug, "send: %s", strerror(errno));
	s.sent = plug;
	arm();
	for (i = 0; i < SMALL_SENDS; i++) {
		r = request(p + s.sent, SMALL);
		e = tx_send(dev, &r);
		if (e && err)
			break;
		if (e)
			err = e;
		else
			s.sent += r.sent;
	}
	disarm();
	must(i == SMALL_SENDS, "send %d: %s, after %s", i, strerror(e), strerror(err));
	session_command(&s, PEER_GO);
	reuse(p, plug + SMALL_SENDS * SMALL);
	shutdown(s.data, SHUT_WR);
	end(err);
}

static void run_udp(void)
{
	struct pin_guard_tx_send r;
	size_t len = 60000;
	unsigned char *p;
	int err;

	begin(PEER_UDP, len);
	p = stream(len);
	r = request(p, len);
	arm();
	err = tx_send(dev, &r);
	disarm();
	if (!err)
		s.sent = r.sent;
	reuse(p, len);
	end(err);
}

/* A registration that fails keeps nothing; one that does not can be sent from. */
static void run_register(void)
{
	struct pin_guard_tx_send r;
	size_t len = 300 * PAGE;
	uint64_t buffer;
	unsigned char *p;
	int err;

	begin(PEER_TCP, 0);
	send_room(s.data, 4 << 20);
	p = stream(len);
	arm();
	err = register_buffer(p, len, &buffer);
	disarm();
	if (!err) {
		r = request(NULL, len);
		r.buffer = buffer;
		r.mode = PIN_GUARD_TX_GUARD;
		must(!tx_send(dev, &r), "send: %s", strerror(errno));
		s.sent = r.sent;
	}
	session_command(&s, PEER_GO);
	reuse(p, len);
	shutdown(s.data, SHUT_WR);
	end(err);
}

/* Pieces of @sizes, over and over: all of them are one request, or none is. */
static void batch(int kind, unsigned int nr, const size_t *sizes, size_t nr_sizes)
{
	struct pin_guard_tx_part parts[PIN_GUARD_TX_MAX_PARTS] = { 0 };
	struct pin_guard_tx_batch b = { .parts = (unsigned long)parts, .nr = nr };
	struct pin_guard_tx_status st;
	uint64_t buffer = 0;
	size_t len = 0, i;
	unsigned char *p;
	int err;

	for (i = 0; i < nr; i++) {
		parts[i].addr = len;
		parts[i].len = sizes[i % nr_sizes];
		len += parts[i].len;
	}
	begin(kind, len);
	p = stream(len);
	if (send_mode == MODE_REGISTERED)
		must(!register_buffer(p, len, &buffer), "register: %s", strerror(errno));
	for (i = 0; i < nr; i++) {
		parts[i].buffer = buffer;
		parts[i].addr += buffer ? 0 : (unsigned long)p;
	}
	b.fd = s.data;
	if (kind == PEER_TCP)
		send_room(s.data, 4 << 20);
	arm();
	err = tx_batch(dev, &b);
	disarm();
	must(!tx_status(dev, 0, &st), "status: %s", strerror(errno));
	must(st.requests == !err, "%u requests after %s", st.requests, strerror(err));
	s.sent = err ? 0 : b.sent;
	if (kind == PEER_UDP) {
		/* A datagram that fails is the last; the peer waits for the others. */
		must(s.sent % sizes[0] == 0, "%llu bytes are no whole datagrams",
		     (unsigned long long)s.sent);
		for (; !err && s.sent < len; s.sent += sizes[0])
			must(send(s.data, p + s.sent, sizes[0], 0) == (ssize_t)sizes[0],
			     "send: %s", strerror(errno));
	} else {
		must(err || s.sent == len, "%llu of %zu bytes", (unsigned long long)s.sent, len);
		must(err || (st.in_flight == 1 && st.pinned >= len / PAGE),
		     "complete, though the peer has not read");
		session_command(&s, PEER_GO);
	}
	reuse(p, len);
	if (kind == PEER_TCP)
		shutdown(s.data, SHUT_WR);
	end(err);
}

/* Of so many runs that some need no memory for them, some an object, some an array */
static void run_tcp_batch(void)
{
	const size_t sizes[] = { 100, PAGE, 5 * PAGE, 20 * PAGE };

	batch(PEER_TCP, 16, sizes, ARRAY_SIZE(sizes));
}

/* Datagrams of one size, by which peer tells them apart */
static void run_udp_batch(void)
{
	const size_t sizes[] = { 20000 };

	batch(PEER_UDP, 5, sizes, ARRAY_SIZE(sizes));
}

#define SEND_ERRNOS	{ ENOMEM, ENOBUFS }

const struct operation op_tcp = { "tcp", "a send", run_tcp, SEND_ERRNOS };
const struct operation op_tcp_big = { "tcp-big", "of many pages", run_tcp_big, SEND_ERRNOS };
const struct operation op_tcp_small = { "tcp-small", "many sends", run_tcp_small, SEND_ERRNOS };
const struct operation op_tcp_batch = { "tcp-batch", "a batch", run_tcp_batch, SEND_ERRNOS };
const struct operation op_udp_batch = { "udp-batch", "a batch of them", run_udp_batch, SEND_ERRNOS };
const struct operation op_udp = { "udp", "a datagram", run_udp, SEND_ERRNOS };
const struct operation op_register = { "register", "a buffer to send", run_register, { ENOMEM } };

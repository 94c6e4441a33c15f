// SPDX-License-Identifier: GPL-2.0
/* The cases of send_guard: how long a send lives, and what is said of it. The table of all. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <linux/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "send_guard.h"

#define NOBODY	65534

/*
 * Life time
 */

static void close_in_flight(const struct send_case *c)
{
	size_t len = 100000;
	unsigned char *p;

	begin();
	plug();
	p = next_bytes(len);
	put(c->mode, p, len, 0);
	close(s.data);
	s.data = -1;
	must_be_in_flight(0);
	let_go(c, p, len);
	end(c->flags & LOSES);
}

/* The pages outlive the process, if it ends with the socket and the device open. */
static void exit_in_flight(const struct send_case *c)
{
	size_t len = 64 * PAGE, other = 16 << 20;
	int status, result[2];
	pid_t pid;

	begin();
	plug();
	must(!pipe(result), "pipe");
	fflush(stdout);
	pid = fork();
	if (!pid) {
		dev = tx_open();
		put(c->mode, next_bytes(len), len, 0);
		must_be_in_flight(0);
		if (c->param)
			raise(SIGKILL);
		_exit(0);
	}
	must(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
	must(c->param ? WIFSIGNALED(status) : WIFEXITED(status), "status 0x%x", status);
	s.sent += len;
	close(s.data);
	s.data = -1;
	must(pins_held() >= 64, "%ld pins are held", pins_held());
	/* Had they been freed, they would be somebody else's now. */
	overwrite(map(other, 0, -1), other);
	session_command(&s, PEER_GO);
	end(false);
}

static void abort_in_flight(const struct send_case *c)
{
	struct pin_guard_tx_status status;
	unsigned char *p;
	uint64_t id;

	begin();
	plug();
	p = next_bytes(100000);
	id = put(c->mode, p, 100000, 0);
	must_be_in_flight(id);
	must(tx_wait(dev, id, A_WHILE_MS, &status) == ETIMEDOUT, "complete before the abort");
	must(!tx_abort(dev, id), "abort: %s", strerror(errno));
	must_complete(id);
	must(send(s.data, p, 1, MSG_NOSIGNAL) < 0, "the connection goes on");
	must(tx_abort(dev, id) == ENOENT, "it is still known");
	/* The data is lost, and said to be. */
	session_command(&s, PEER_GO);
	must(session_report(&s, PEER_END).received < s.sent, "the peer got all");
}

/* Tells the script. */
static void announce(const char *what)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.%d", settings.sync, what, getpid());
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	must(fd >= 0, "%s: %s", path, strerror(errno));
	close(fd);
}

/* From now on the link loses all. */
static void await_cut(void)
{
	char path[300];

	if (!settings.sync)
		skip("nobody to cut the link: --sync");
	announce("ready");
	snprintf(path, sizeof(path), "%s/cut", settings.sync);
	while (access(path, F_OK))
		usleep(20000);
}

#define LINGER		1
#define UNACKNOWLEDGED	"complete, with nobody to acknowledge it"

/* A peer that is gone keeps the pages, until somebody ends the connection. */
static void gone(const struct send_case *c)
{
	struct linger linger = { .l_onoff = 1 };
	struct pin_guard_tx_status status;
	size_t len = 100000;
	uint64_t id;

	begin();
	session_command(&s, PEER_GO);
	await_cut();
	id = put(c->mode, next_bytes(len), len, 0);
	if (c->param == LINGER)
		setsockopt(s.data, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	must(status_of(id).pinned, UNACKNOWLEDGED);
	close(s.data);
	if (c->param != LINGER) {
		must(tx_wait(dev, id, A_WHILE_MS, &status) == ETIMEDOUT, UNACKNOWLEDGED);
		must(status_of(id).pinned, UNACKNOWLEDGED);
		must(!tx_abort(dev, id), "abort: %s", strerror(errno));
	}
	must_complete(id);
}

/* For the script: in flight until somebody else ends it. */
static void stuck(const struct send_case *c)
{
	begin();
	await_cut();
	put(c->mode, next_bytes(100000), 100000, 0);
	must(status_of(0).pinned, UNACKNOWLEDGED);
	announce("sent");
	for (;;)
		pause();
}

/*
 * What it says
 */

static int socket_of(int family, int type, int protocol)
{
	int fd = socket(family, type, protocol);

	if (fd < 0 && errno != EPROTONOSUPPORT && errno != EAFNOSUPPORT)
		give_up("socket %d %d %d: %s", family, type, protocol, strerror(errno));
	return fd;
}

static void errors(const struct send_case *c)
{
	unsigned char *p = map(4 * PAGE, 0, -1);
	int pair[2], listener = socket_of(AF_INET, SOCK_STREAM, 0), bad_fd = 1000;
	int corked = socket_of(AF_INET, SOCK_DGRAM, 0), on = 1;
	uint64_t unknown = 12345, a = (unsigned long)p;
	struct pin_guard_tx_buffer b;
	struct pin_guard_tx_status st;
	unsigned int i;

	begin();
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
	must(!listen(listener, 1), "listen");
	must(!setsockopt(corked, IPPROTO_UDP, UDP_CORK, &on, sizeof(on)), "UDP_CORK");
	munmap(p + 2 * PAGE, PAGE);
	{
		const struct {
			const char *what;
			int expected, fd, or_fd_errno;
			uint64_t addr, len, buffer;
			unsigned int mode, flags, reserved;
		} bad[] = {
			{ "no file", EBADF, bad_fd, 0, a, 1, 0, 2 },
			{ "no socket", ENOTSOCK, open("/dev/null", O_WRONLY), 0, a, 1, 0, 2 },
			{ "a unix socket", EOPNOTSUPP, pair[0], 0, a, 1, 0, 2 },
			{ "a unix socket, copy", EOPNOTSUPP, pair[0], 0, a, 1, 0, 0 },
			{ "a netlink socket", EOPNOTSUPP,
			  socket_of(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), 0, a, 1, 0, 2 },
			{ "a raw socket", EOPNOTSUPP,
			  socket_of(AF_INET, SOCK_RAW, IPPROTO_ICMP), 0, a, 1, 0, 2 },
			{ "a packet socket", EOPNOTSUPP,
			  socket_of(AF_PACKET, SOCK_RAW, 0), 0, a, 1, 0, 2 },
			{ "an MPTCP socket", EOPNOTSUPP, socket_of(AF_INET, SOCK_STREAM, 262), EBADF,
			  a, 1, 0, 2 },
			{ "a listening socket", EPIPE, listener, ENOTCONN, a, 1, 0, 2 },
			{ "an unconnected TCP socket", EPIPE, socket_of(AF_INET, SOCK_STREAM, 0),
			  ENOTCONN, a, 1, 0, 2 },
			{ "an unconnected UDP socket", EDESTADDRREQ,
			  socket_of(AF_INET, SOCK_DGRAM, 0), 0, a, 1, 0, 2 },
			{ "MORE on UDP", EINVAL, socket_of(AF_INET, SOCK_DGRAM, 0), 0, a, 1, 0, 2,
			  PIN_GUARD_TX_MORE },
			{ "a corked UDP socket", EINVAL, corked, 0, a, 1, 0, 2 },
			{ "length 0", EINVAL, s.data, 0, a, 0, 0, 2 },
			{ "a mode", EINVAL, s.data, 0, a, 1, 0, 3 },
			{ "a flag", EINVAL, s.data, 0, a, 1, 0, 2, 0x8 },
			{ "reserved", EINVAL, s.data, 0, a, 1, 0, 2, 0, 1 },
			{ "a buffer to copy", EINVAL, s.data, 0, 0, 1, 1, 0 },
			{ "an unknown buffer", ENOENT, s.data, 0, 0, 1, 1, 2 },
			{ "64 MiB and a byte", E2BIG, s.data, 0, a, PIN_GUARD_TX_MAX_LEN + 1, 0, 2 },
			{ "address 0", EFAULT, s.data, 0, 0, 1, 0, 2 },
			{ "a hole", EFAULT, s.data, 0, a, 4 * PAGE, 0, 2 },
			{ "a hole, copy", EFAULT, s.data, 0, a + 2 * PAGE, 1, 0, 0 },
			{ "a hole, splice", EFAULT, s.data, 0, a + 2 * PAGE, 1, 0, 1 },
			{ "a kernel address", EFAULT, s.data, 0, 0xffff888000000000ULL, 1, 0, 2 },
		};

		for (i = 0; i < ARRAY_SIZE(bad); i++) {
			struct pin_guard_tx_send r = {
				.addr = bad[i].addr, .len = bad[i].len, .buffer = bad[i].buffer,
				.fd = bad[i].fd, .mode = bad[i].mode, .flags = bad[i].flags,
				.reserved = bad[i].reserved,
			};
			int came = tx_send(dev, &r);

			must(came == bad[i].expected || (came && came == bad[i].or_fd_errno),
			     "%s: expected %s, came %s", bad[i].what, strerror(bad[i].expected),
			     strerror(came));
		}
	}
	must(!status_of(0).requests, "a refused request is known");
	must(tx_status(dev, unknown, &st) == ENOENT, "status of an unknown id");
	must(tx_wait(dev, unknown, 0, &st) == ENOENT, "wait for an unknown id");
	must(tx_abort(dev, unknown) == ENOENT, "abort of an unknown id");
	must(ioctl(dev, PIN_GUARD_TX_UNREGISTER, &unknown) && errno == ENOENT,
	     "unregister of an unknown id");
	must(ioctl(dev, _IO('P', 0xdf)) && errno == ENOTTY, "an unknown ioctl");
	must(ioctl(dev, PIN_GUARD_TX_SEND, NULL) && errno == EFAULT, "send of NULL");
	b = (struct pin_guard_tx_buffer){ .addr = a, .len = 0 };
	must(ioctl(dev, PIN_GUARD_TX_REGISTER, &b) && errno == EINVAL, "register nothing");
	b.len = PIN_GUARD_TX_MAX_LEN + 1;
	must(ioctl(dev, PIN_GUARD_TX_REGISTER, &b) && errno == E2BIG, "register too much");
	b.len = 4 * PAGE;
	must(ioctl(dev, PIN_GUARD_TX_REGISTER, &b) && errno == EFAULT, "register a hole");
	b.len = PAGE;
	must(!ioctl(dev, PIN_GUARD_TX_REGISTER, &b), "register: %s", strerror(errno));
	for (i = 0; i < 3; i++) {
		const uint64_t at[] = { 1, PAGE, -1ULL };
		struct pin_guard_tx_send r = request(c->mode, (void *)at[i], PAGE);

		r.buffer = b.buffer;
		must(tx_send(dev, &r) == EINVAL, "beyond a registered buffer (%u): no EINVAL", i);
	}
	must(!status_of(0).requests, "a refused request is known");
	session_command(&s, PEER_GO);
	end(false);
}

/* A socket that takes some of it pins only that. */
static void dontwait(const struct send_case *c)
{
	size_t len = 4 << 20, at = 0, pages = 0;
	struct pin_guard_tx_send r;
	unsigned char *p;
	int err;

	begin();
	send_room(s.data, 256 << 10);
	p = next_bytes(len);
	for (;;) {
		r = request(c->mode, p + at, len - at);
		r.flags = PIN_GUARD_TX_DONTWAIT;
		err = tx_send(dev, &r);
		if (err)
			break;
		must(r.sent && r.sent <= r.len, "sent %llu of %llu bytes", r.sent, r.len);
		pages += ((unsigned long)(p + at) % PAGE + r.sent + PAGE - 1) / PAGE;
		at += r.sent;
		s.sent += r.sent;
		must(at < len, "the socket takes it all");
	}
	must(err == EAGAIN, "expected EAGAIN, came %s", strerror(err));
	must(at, "the socket takes nothing");
	/* Nobody else has them: they may be overwritten at once. */
	overwrite(p + at, len - at);
	must(must_be_in_flight(0).pinned <= pages, "%llu pages for %zu bytes",
	     status_of(0).pinned, at);
	must(status_of(0).sent == at, "status says %llu bytes, sends said %zu", status_of(0).sent, at);
	session_command(&s, PEER_GO);
	must_complete(0);
	overwrite(p, len);
	end(false);
}

static void become_limited(size_t limit, uid_t uid)
{
	struct rlimit r = { .rlim_cur = limit, .rlim_max = limit };

	must(!setrlimit(RLIMIT_MEMLOCK, &r) && !setresuid(uid, uid, uid), "cannot be nobody: %s",
	     strerror(errno));
}

static void memlock(const struct send_case *c)
{
	struct pin_guard_tx_send r;
	size_t limit = 256 << 10, len = 96 << 10;
	int err, i, unsent;
	unsigned char *p;

	begin();
	plug();
	become_limited(limit, NOBODY);
	p = next_bytes(2 * limit);
	must(!ioctl(s.data, SIOCOUTQ, &unsent), "SIOCOUTQ");
	r = request(c->mode, p, limit + 1);
	err = tx_send(dev, &r);
	must(err == ENOBUFS, "above the limit: expected ENOBUFS, came %s", strerror(err));
	must(!status_of(0).requests, "a refused request is known");
	must(!ioctl(s.data, SIOCOUTQ, &i) && i <= unsent, "%d bytes queued, %d before", i, unsent);
	put(c->mode, p, len, 0);
	put(c->mode, p + len, len, 0);
	must(status_of(0).in_flight, "complete, though the peer has not read");
	r = request(c->mode, p + 2 * len, len);
	err = tx_send(dev, &r);
	must(err == ENOBUFS, "above the limit in three: expected ENOBUFS, came %s", strerror(err));
	session_command(&s, PEER_GO);
	must_complete(0);
	/* And the charge is back, if not before the answer. */
	for (i = 0; i < 100 && (err = tx_send(dev, &r)) == ENOBUFS; i++)
		usleep(50000);
	must(!err, "after completion: %s", strerror(err));
	s.sent += r.sent;
	must_complete(0);
	end(false);
}

static void memlock_registered(const struct send_case *c)
{
	struct pin_guard_tx_buffer b = { .len = 64 << 10 }, b2;
	struct pin_guard_tx_send r;
	int i;

	begin();
	plug();
	become_limited(64 << 10, NOBODY - 1);
	b.addr = (unsigned long)map(256 << 10, 0, -1);
	fill((void *)b.addr, 256 << 10, 0);
	b2 = (struct pin_guard_tx_buffer){ .addr = b.addr, .len = 65 << 10 };
	must(ioctl(dev, PIN_GUARD_TX_REGISTER, &b2) && (errno == ENOMEM || errno == ENOBUFS),
	     "above the limit");
	must(!ioctl(dev, PIN_GUARD_TX_REGISTER, &b), "register: %s", strerror(errno));
	b2.len = PAGE;
	must(ioctl(dev, PIN_GUARD_TX_REGISTER, &b2) && (errno == ENOMEM || errno == ENOBUFS),
	     "above the limit in two");
	/* A send of it costs nothing more. */
	r = request(c->mode, NULL, b.len);
	r.buffer = b.buffer;
	must(!tx_send(dev, &r) && r.sent == b.len, "send: %s", strerror(errno));
	s.sent += r.sent;
	must(!ioctl(dev, PIN_GUARD_TX_UNREGISTER, &b.buffer), "unregister: %s", strerror(errno));
	must(ioctl(dev, PIN_GUARD_TX_REGISTER, &b2), "what is in flight is charged no more");
	session_command(&s, PEER_GO);
	must_complete(0);
	for (i = 0; i < 100 && ioctl(dev, PIN_GUARD_TX_REGISTER, &b2); i++)
		usleep(50000);
	must(i < 100, "the charge is not given back: %s", strerror(errno));
	end(false);
}

static void poll_and_sigio(const struct send_case *c)
{
	struct pollfd pfd = { .fd = -1, .events = POLLIN };
	struct timespec limit = { .tv_sec = 60 };
	sigset_t set;

	begin();
	plug();
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	must(!fcntl(dev, F_SETOWN, getpid()) && !fcntl(dev, F_SETFL, O_ASYNC | O_RDWR),
	     "O_ASYNC: %s", strerror(errno));
	pfd.fd = dev;
	put(c->mode, next_bytes(10000), 10000, 0);
	must(!poll(&pfd, 1, A_WHILE_MS), "poll says 0x%x in flight", pfd.revents);
	must(!sigpending(&set) && !sigismember(&set, SIGIO), "SIGIO in flight");
	session_command(&s, PEER_GO);
	must(poll(&pfd, 1, 60000) == 1 && pfd.revents & POLLIN, "poll does not tell");
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	must(sigtimedwait(&set, NULL, &limit) == SIGIO, "no SIGIO: %s", strerror(errno));
	must_complete(0);
	must(!poll(&pfd, 1, 0), "poll says 0x%x when all was waited for", pfd.revents);
	end(false);
}

static void wait_limit(const struct send_case *c)
{
	struct pin_guard_tx_status status;
	uint64_t id;
	int other;

	begin();
	plug();
	id = put(c->mode, next_bytes(10000), 10000, 0);
	must(tx_wait(dev, id, 0, &status) == ETIMEDOUT, "no ETIMEDOUT after 0 ms");
	must(tx_wait(dev, 0, A_WHILE_MS, &status) == ETIMEDOUT, "no ETIMEDOUT");
	must_be_in_flight(id);
	other = tx_open();
	must(tx_status(other, id, &status) == ENOENT, "another file knows the request");
	session_command(&s, PEER_GO);
	must_complete(id);
	must(tx_wait(dev, id, 0, &status) == ENOENT, "a request is known after WAIT");
	end(false);
}

static void wait_killed(const struct send_case *c)
{
	struct pin_guard_tx_status st;
	int status;
	pid_t pid;

	begin();
	plug();
	put(c->mode, next_bytes(10000), 10000, 0);
	pid = fork();
	if (!pid) {
		tx_wait(dev, 0, NO_LIMIT, &st);
		_exit(0);
	}
	usleep(A_WHILE_MS * 1000);
	must(!waitpid(pid, &status, WNOHANG), "it does not wait");
	kill(pid, SIGKILL);
	/* Else this is not done in time. */
	must(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "status 0x%x", status);
	must_be_in_flight(0);
	session_command(&s, PEER_GO);
	must_complete(0);
	end(false);
}

#define GUARD	PIN_GUARD_TX_GUARD

/* stream: whatever the way is like; link: on every link; once: the same on all */
const struct send_case send_cases[] = {
	{ "guard", "stream", stream, 0, GUARD },
	{ "guard-at-once", "stream", stream, AT_ONCE | LOSES, GUARD },
	{ "splice-at-once", "stream", stream, LOSES, PIN_GUARD_TX_SPLICE },
	{ "copy-at-once", "stream", stream, 0, PIN_GUARD_TX_COPY },

	{ "splice-received", "second", stream, ASKED, PIN_GUARD_TX_SPLICE, RECEIVED },
	{ "retransmitted", "loss", retransmitted, ASKED, GUARD },

	{ "mixed", "mixed", mixed, 0, GUARD },
	{ "mixed-cork", "mixed", mixed, 0, GUARD, CORK },
	{ "mixed-at-once", "mixed", mixed, AT_ONCE | LOSES, GUARD },

	{ "udp", "udp", udp, ASKED, GUARD },
	{ "udp-batch", "udp", udp, ASKED, GUARD, BATCHED },
	{ "udp-batch-short", "udp", batch_short, ASKED | ALONE, GUARD },
	{ "udp-at-once", "udp", udp, ASKED | AT_ONCE | LOSES, GUARD },
	{ "udp-splice-at-once", "udp", udp, ASKED | LOSES, PIN_GUARD_TX_SPLICE },
	{ "udp-copy-at-once", "udp", udp, ASKED, PIN_GUARD_TX_COPY },
	{ "udp-fragments-at-once", "udp", udp, ASKED | AT_ONCE, GUARD, FRAGMENTS },

	{ "close", "link", close_in_flight, 0, GUARD },
	{ "close-at-once", "link", close_in_flight, AT_ONCE | LOSES, GUARD },
	{ "exit", "link", exit_in_flight, 0, GUARD },
	{ "exit-killed", "link", exit_in_flight, 0, GUARD, 1 },
	{ "abort", "link", abort_in_flight, 0, GUARD },
	{ "batch", "link", batched, 0, GUARD },
	{ "batch-at-once", "link", batched, AT_ONCE | LOSES, GUARD },
	{ "segments", "link", small_sends, 0, GUARD },

	{ "gone-close", "gone", gone, ASKED, GUARD },
	{ "gone-linger", "gone", gone, ASKED, GUARD, LINGER },
	{ "stuck", "stuck", stuck, ASKED | ONCE, GUARD },

	{ "errors", "once", errors, ONCE, GUARD },
	{ "batch-errors", "once", batch_errors, ONCE, GUARD },
	{ "dontwait", "once", dontwait, 0, GUARD },
	{ "memlock", "once", memlock, ONCE, GUARD },
	{ "memlock-registered", "once", memlock_registered, ONCE, GUARD },
	{ "ktls", "once", copies, 0, GUARD, KTLS },
	{ "sockmap", "once", copies, 0, GUARD, SOCKMAP },
	{ "mtu-probing", "mtu", copies, ASKED, GUARD },
	{ "ktls-in-flight", "takeover", taken_over, 0, GUARD, KTLS },
	{ "ktls-in-flight-at-once", "takeover", taken_over, AT_ONCE | LOSES, GUARD, KTLS },
	{ "ktls-keys-in-flight", "takeover", taken_over, 0, GUARD, KTLS_KEYS },
	{ "sockmap-in-flight", "takeover", taken_over, 0, GUARD, SOCKMAP },
	{ "sockmap-in-flight-at-once", "takeover", taken_over, AT_ONCE | LOSES, GUARD, SOCKMAP },
	{ "mptcp", "takeover", mptcp, ONCE, GUARD },
	{ "poll-sigio", "once", poll_and_sigio, ONCE, GUARD },
	{ "wait-limit", "once", wait_limit, ONCE, GUARD },
	{ "wait-killed", "once", wait_killed, ONCE, GUARD },
	{ "memory-anon", "once", memory, ONCE, GUARD, ANON },
	{ "memory-read-only", "once", memory, ONCE, GUARD, READ_ONLY },
	{ "memory-thp", "once", memory, ONCE, GUARD, THP },
	{ "memory-hugetlb", "once", memory, ONCE, GUARD, HUGETLB },
	{ "memory-file", "once", memory, ONCE, GUARD, FILE_SHARED },
	{ "memory-zero-page", "once", memory, ONCE, GUARD, ZERO_PAGE },
	{ "memory-after-fork", "once", memory, ONCE, GUARD, AFTER_FORK },
	{ "memory-fork-in-flight", "once", memory, ONCE, GUARD, FORK_IN_FLIGHT },
	{ "registered", "once", registered_buffer, ONCE | ALONE, GUARD },
	{ "registered-at-once", "once", registered_buffer, ONCE | ALONE | AT_ONCE | LOSES, GUARD },
	{ "registered-shared", "once", shared_pins, ONCE | ALONE, GUARD },
	{ "read-in-flight", "read", read_in_flight, ASKED | ONCE, GUARD },
};

const unsigned int nr_send_cases = ARRAY_SIZE(send_cases);

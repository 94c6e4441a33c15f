// SPDX-License-Identifier: GPL-2.0
/* For the cases of send_guard: the session with the peer, and what is in flight on the link. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "send_guard.h"

#define PLUG		(384UL << 10)	/* more than peer's window */
#define ROOM		(8 << 20)	/* in the send queue: nothing blocks */

int dev = -1;
struct session s;
static struct peer_hello hello;		/* of the last begin_kind() */

/* Memory */

unsigned char *map(size_t size, int flags, int fd)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | flags : MAP_SHARED, fd, 0);

	must(p != MAP_FAILED, "mmap: %s", strerror(errno));
	return p;
}

void fill(unsigned char *p, size_t len, size_t later)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = peer_byte(s.seed, s.sent + later + i);
}

void overwrite(unsigned char *p, size_t len)
{
	memset(p, PEER_OVERWRITTEN, len);
}

unsigned char *next_bytes(size_t len)
{
	unsigned char *p = map(len + 2 * PAGE, 0, -1) + 123;

	fill(p, len, 0);
	return p;
}

/* Sessions */

void begin_kind(struct peer_hello kind)
{
	hello = kind;
	if (dev < 0)
		dev = tx_open();
	must(dev >= 0, TX_DEVICE ": %s", strerror(errno));
	session_open(&s, settings.address, hello);
	send_room(s.data, ROOM);
}

void begin(void)
{
	begin_kind((struct peer_hello){ .kind = PEER_TCP, .seed = getpid() });
}

struct pin_guard_tx_send request(unsigned int mode, const void *addr, size_t len)
{
	return (struct pin_guard_tx_send){
		.addr = (unsigned long)addr, .len = len, .fd = s.data, .mode = mode,
	};
}

uint64_t put(unsigned int mode, const unsigned char *addr, size_t len, unsigned int flags)
{
	struct pin_guard_tx_send r = request(mode, addr, len);
	int err;

	if (mode == MODE_PLAIN) {
		must(send(s.data, addr, len, MSG_NOSIGNAL) == (ssize_t)len, "send: %s",
		     strerror(errno));
		s.sent += len;
		return 0;
	}
	for (r.flags = flags; r.len; r.addr += r.sent, r.len -= r.sent) {
		err = tx_send(dev, &r);
		must(!err, "%s of %llu bytes: %s", mode_names[mode], r.len, strerror(err));
		must(r.sent && r.sent <= r.len, "sent %llu of %llu bytes", r.sent, r.len);
		s.sent += r.sent;
	}
	return r.id;
}

void plug(void)
{
	unsigned char *p = next_bytes(PLUG);

	put(MODE_PLAIN, p, PLUG, 0);
}

struct pin_guard_tx_status status_of(uint64_t id)
{
	struct pin_guard_tx_status status;
	int err = tx_status(dev, id, &status);

	must(!err, "status: %s", strerror(err));
	return status;
}

/*
 * The link
 */

#define LINK_COPIES	"the link takes a copy before it sends: MSG_ZEROCOPY loses nothing either"

/*
 * How many bytes the peer does not get, or gets wrong, if send(2) sends such a session with @flags
 * and they are overwritten at once
 */
static uint64_t lost_at_once(int flags)
{
	bool is_udp = hello.kind == PEER_UDP;
	size_t at, len = is_udp ? hello.bytes : 2 * PLUG, size = is_udp ? len / DATAGRAMS : len;
	struct session before = s;
	struct peer_report r;
	unsigned char *p;
	int one = 1;

	begin_kind(hello);
	must(!setsockopt(s.data, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)), "SO_ZEROCOPY: %s",
	     strerror(errno));
	p = next_bytes(len);
	for (at = 0; at < len; at += size)
		must(send(s.data, p + at, size, flags | MSG_NOSIGNAL) == (ssize_t)size,
		     "send with flags 0x%x: %s", flags, strerror(errno));
	overwrite(p, len);
	session_command(&s, PEER_GO);
	shutdown(s.data, SHUT_WR);
	r = session_report(&s, PEER_END);
	close(s.data);
	close(s.control);
	s = before;
	return len - r.received + r.bad;
}

/*
 * A link may encrypt into memory of its own, or have no checksums or no scatter-gather. Such a link
 * does not need the pages when the send returns, and the kernel's own MSG_ZEROCOPY shows it.
 */
static bool link_copies(void)
{
	static int copies = -1;

	if (copies < 0)
		copies = !lost_at_once(MSG_ZEROCOPY);
	return copies;
}

bool is_in_flight(uint64_t id, struct pin_guard_tx_status *status)
{
	int tries = 50;
	long pins;

	/* It may only become less; and others, coming and going, blur what the machine counts. */
	do {
		pins = pins_held();
		*status = status_of(id);
	} while (pins < (long)status->pinned && --tries && !usleep(10000));
	must(tries, "%llu pages pinned, but %ld in all", status->pinned, pins);
	if (!status->in_flight) {
		must(link_copies(), "complete, though the peer has not read, and the link takes no copy");
		return false;
	}
	must(status->pinned, "in flight without a page");
	return true;
}

struct pin_guard_tx_status must_be_in_flight(uint64_t id)
{
	struct pin_guard_tx_status status;

	if (!is_in_flight(id, &status))
		skip(LINK_COPIES);
	return status;
}

void must_complete(uint64_t id)
{
	struct pin_guard_tx_status status;
	int err = tx_wait(dev, id, NO_LIMIT, &status);

	must(!err, "wait: %s", strerror(err));
	must(!status.in_flight && !status.pinned, "complete, but %u in flight, %llu pages",
	     status.in_flight, status.pinned);
}

void end(bool loses)
{
	bool is_udp = hello.kind == PEER_UDP;
	struct peer_report r;
	uint64_t missing;

	if (s.data >= 0)
		shutdown(s.data, SHUT_WR);
	r = session_report(&s, PEER_END);
	missing = s.sent - r.received;
	if (missing && is_udp && lost_at_once(0))
		skip("the link does not deliver such datagrams of send(2) either");
	/* The peer's stack drops a datagram that was overwritten after its checksum was made. */
	must(!missing || (is_udp && loses), "sent %llu bytes, the peer got %llu (%s)",
	     (unsigned long long)s.sent, (unsigned long long)r.received, strerror(r.error));
	must(r.bad == r.overwritten, "%llu bytes are wrong and not overwritten, the first at %llu",
	     (unsigned long long)(r.bad - r.overwritten), (unsigned long long)r.first_bad);
	if (loses && !missing && !r.bad && link_copies())
		skip(LINK_COPIES);
	if (loses)
		finish(missing || r.bad ? CASE_PASSED : CASE_FAILED,
		       "lost %llu of %llu bytes, and %llu did not arrive", (unsigned long long)r.bad,
		       (unsigned long long)s.sent, (unsigned long long)missing);
	must(!r.bad, "lost %llu of %llu bytes, the first at %llu", (unsigned long long)r.bad,
	     (unsigned long long)r.received, (unsigned long long)r.first_bad);
}

void let_go(const struct send_case *c, unsigned char *p, size_t len)
{
	/* What is complete already is ours: the peer must get it right all the same. */
	bool waits = c->mode == PIN_GUARD_TX_GUARD && !(c->flags & AT_ONCE) && status_of(0).in_flight;

	if (!waits)
		overwrite(p, len);
	session_command(&s, PEER_GO);
	if (waits) {
		must_complete(0);
		overwrite(p, len);
	}
}

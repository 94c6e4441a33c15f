// SPDX-License-Identifier: GPL-2.0
/* The cases of send_guard: what is sent, from what memory, and how it arrives. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "send_guard.h"


static uint64_t tcp_info_of(size_t offset, size_t size)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);
	uint64_t value = 0;

	must(!getsockopt(s.data, IPPROTO_TCP, TCP_INFO, &info, &len) && len >= offset + size,
	     "TCP_INFO: %s", strerror(errno));
	memcpy(&value, (char *)&info + offset, size);
	return value;
}

#define tcp_info_get(field) \
	tcp_info_of(offsetof(struct tcp_info, field), sizeof(((struct tcp_info *)0)->field))

void stream(const struct send_case *c)
{
	static const size_t pieces[] = { 1, 4095, 65536, 33333, 300000 };
	struct pin_guard_tx_status status;
	size_t i, at = 0, len = 0;
	bool in_flight = false;
	unsigned char *p;
	uint64_t start;
	int unacked;

	begin();
	for (i = 0; i < ARRAY_SIZE(pieces); i++)
		len += pieces[i];
	p = next_bytes(len);
	for (i = 0; i < ARRAY_SIZE(pieces); at += pieces[i++])
		put(c->mode, p + at, pieces[i], 0);
	if (c->mode != PIN_GUARD_TX_GUARD) {
		must(!status_of(0).in_flight, "a %s is in flight", mode_names[c->mode]);
	} else {
		in_flight = is_in_flight(0, &status);
		/* One byte, 64 KiB and a bit, ...: at an odd offset */
		must(status.pinned <= len / PAGE + 2 * ARRAY_SIZE(pieces), "too many pages");
	}
	if (c->param == RECEIVED) {
		session_command(&s, PEER_GO);
		end(false);
		/* Not all that the link has sent it to has it yet. */
		overwrite(p, len);
		return;
	}
	start = now_ms();
	let_go(c, p, len);
	if (in_flight && !(c->flags & AT_ONCE)) {
		/* The window opens after the delay, the last byte is acknowledged after another. */
		must(now_ms() - start >= 2 * settings.delay_ms, "complete after %llu ms",
		     (unsigned long long)(now_ms() - start));
		must(!ioctl(s.data, SIOCOUTQ, &unacked) && !unacked,
		     "complete, but %d bytes are not acknowledged", unacked);
	}
	end(c->flags & LOSES);
}

/* Until a segment has been sent again, under loss. */
void retransmitted(const struct send_case *c)
{
	size_t len = 200001;
	unsigned char *p = map(len, 0, -1);
	int round;

	begin();
	session_command(&s, PEER_GO);
	for (round = 0; round < 40; round++) {
		fill(p, len, 0);
		put(c->mode, p, len, 0);
		must_complete(0);
		overwrite(p, len);
		if (tcp_info_get(tcpi_total_retrans) && round >= 2)
			break;
	}
	must(round < 40, "nothing was sent again: is there any loss?");
	end(false);
}

/* 600 of any size, in turn copied and not. */
void mixed(const struct send_case *c)
{
	static const unsigned int modes[] = {
		PIN_GUARD_TX_GUARD, PIN_GUARD_TX_COPY, MODE_PLAIN, PIN_GUARD_TX_GUARD,
	};
	unsigned int sizes[600], i, flags, cork = c->param & CORK;
	unsigned char *p;
	size_t len = 0;

	begin_kind((struct peer_hello){ .kind = PEER_TCP, .seed = getpid(), .pause_us = 2000 });
	srand(getpid());
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		sizes[i] = 1 + rand() % (rand() % 4 ? 600 : 9000);
		len += sizes[i];
	}
	p = next_bytes(len);
	if (!(c->flags & AT_ONCE))
		session_command(&s, PEER_GO);
	setsockopt(s.data, IPPROTO_TCP, TCP_CORK, &cork, sizeof(cork));
	for (i = 0; i < ARRAY_SIZE(sizes); p += sizes[i++]) {
		unsigned int mode = modes[rand() % ARRAY_SIZE(modes)];

		flags = !cork && rand() % 3 == 0 ? PIN_GUARD_TX_MORE : 0;
		put(mode, p, sizes[i], flags);
		if (mode != PIN_GUARD_TX_GUARD)
			overwrite(p, sizes[i]);
	}
	/* What is held back for more would stay so. */
	cork = 0;
	setsockopt(s.data, IPPROTO_TCP, TCP_CORK, &cork, sizeof(cork));
	if (c->flags & AT_ONCE) {
		must_be_in_flight(0);
		overwrite(p - len, len);
		session_command(&s, PEER_GO);
	} else {
		if (!(c->param & CORK))
			shutdown(s.data, SHUT_WR);	/* for the last MORE */
		must_complete(0);
		overwrite(p - len, len);
	}
	end(c->flags & LOSES);
}

/* Sends @n parts of @size bytes each, those before @registered from that buffer. */
static struct pin_guard_tx_batch put_batch(const unsigned char *p, unsigned int n, size_t size,
					   uint64_t buffer, size_t registered)
{
	struct pin_guard_tx_part parts[PIN_GUARD_TX_MAX_PARTS] = { 0 };
	struct pin_guard_tx_batch batch = {
		.parts = (unsigned long)parts, .nr = n, .fd = s.data,
	};
	unsigned int i;
	int err;

	for (i = 0; i < n; i++) {
		bool there = (i + 1) * size <= registered;

		parts[i].addr = there ? i * size : (unsigned long)(p + i * size);
		parts[i].buffer = there ? buffer : 0;
		parts[i].len = size;
	}
	err = tx_batch(dev, &batch);
	must(!err, "batch: %s", strerror(err));
	must(batch.sent == n * size, "%llu of %zu bytes", batch.sent, n * size);
	s.sent += batch.sent;
	return batch;
}

/* Many sends, from a registered buffer and without, are one request. */
void batched(const struct send_case *c)
{
	const size_t size = PAGE / 2 + 3, n = PIN_GUARD_TX_MAX_PARTS;
	struct pin_guard_tx_buffer b = { .len = n * size / 2 };
	struct pin_guard_tx_status status;
	unsigned char *p;

	begin();
	plug();
	p = next_bytes(n * size);
	b.addr = (unsigned long)p;
	must(!ioctl(dev, PIN_GUARD_TX_REGISTER, &b), "register: %s", strerror(errno));
	put_batch(p, n, size, b.buffer, b.len);
	must(!ioctl(dev, PIN_GUARD_TX_UNREGISTER, &b.buffer), "unregister: %s", strerror(errno));
	status = must_be_in_flight(0);
	must(status.requests == 1, "%u requests for one batch", status.requests);
	must(status.pinned >= n, "%llu pages pinned for %zu sends", status.pinned, n);
	let_go(c, p, n * size);
	end(c->flags & LOSES);
}

/* One bad piece, wherever it is, and nothing is sent. */
void batch_errors(const struct send_case *c)
{
	struct pin_guard_tx_part parts[2], good = { .len = 1000 };
	const struct {
		struct pin_guard_tx_part part;
		int err;
	} bad[] = {
		{ { .addr = 1, .len = 0 }, EINVAL },
		{ { .len = good.len, .buffer = 12345 }, ENOENT },
		{ { .addr = 1UL << 40, .len = good.len }, EFAULT },
		{ { .len = PIN_GUARD_TX_MAX_LEN + 1 }, E2BIG },
	};
	struct pin_guard_tx_batch right, batch;
	unsigned int i, at;
	int err;

	begin();
	session_command(&s, PEER_GO);
	good.addr = (unsigned long)next_bytes(2 * good.len);
	right = (struct pin_guard_tx_batch){
		.parts = (unsigned long)parts, .nr = 2, .fd = s.data,
	};
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		for (at = 0; at < 2; at++) {
			batch = right;
			parts[0] = parts[1] = good;
			parts[at] = bad[i].part;
			err = tx_batch(dev, &batch);
			must(err == bad[i].err, "bad part %u: %s", i, strerror(err));
		}
	}
	parts[0] = parts[1] = good;
	parts[1].addr += good.len;
	batch = right;
	batch.fd = -1;
	must(tx_batch(dev, &batch) == EBADF, "a bad fd is none");
	batch = right;
	batch.nr = 0;
	must(tx_batch(dev, &batch) == EINVAL, "no part is no error");
	batch.nr = PIN_GUARD_TX_MAX_PARTS + 1;
	must(tx_batch(dev, &batch) == EINVAL, "%u parts are no error", batch.nr);
	batch = right;
	batch.reserved = 1;
	must(tx_batch(dev, &batch) == EINVAL, "reserved = 1 is no error");
	batch = right;
	batch.flags = 0x80000000;
	must(tx_batch(dev, &batch) == EINVAL, "a flag that there is not is no error");
	batch = right;
	batch.parts = 0;
	must(tx_batch(dev, &batch) == EFAULT, "no array is no error");
	must(!status_of(0).requests, "a batch that failed is a request");
	batch = right;
	err = tx_batch(dev, &batch);
	must(!err && batch.sent == 2 * good.len, "%llu bytes: %s", batch.sent, strerror(err));
	s.sent += batch.sent;
	must_complete(0);
	end(false);
}

static unsigned long long pages_of(unsigned long addr, size_t len)
{
	return (addr + len - 1) / PAGE - addr / PAGE + 1;
}

/* A datagram of a batch is too large: those before it go, it stays pinned, those behind it do not. */
void batch_short(const struct send_case *c)
{
	const size_t len = 1000, large = 80000;
	struct pin_guard_tx_part parts[3] = { { .len = len }, { .len = large }, { .len = len } };
	struct pin_guard_tx_status status;
	struct pin_guard_tx_batch b = {
		.parts = (unsigned long)parts, .nr = 3,
	};
	unsigned char *p;
	long before;
	int err;

	begin_kind((struct peer_hello){ .kind = PEER_UDP, .seed = getpid(), .bytes = len });
	before = pins_held();
	p = next_bytes(2 * len + large);
	b.fd = s.data;
	parts[0].addr = (unsigned long)p;
	parts[1].addr = parts[0].addr + len;
	parts[2].addr = parts[1].addr + large;
	err = tx_batch(dev, &b);
	must(!err && b.sent == len, "%llu of %zu bytes: %s", b.sent, len, strerror(err));
	s.sent += b.sent;
	if (is_in_flight(0, &status))
		must(status.pinned == 1 + pages_of(parts[1].addr, large), "%llu pages pinned",
		     status.pinned);
	must_complete(0);
	must(!pins_left(before), "pins are left");
	overwrite(p, len);
	/* The first: an error, and nothing is pinned. */
	parts[0] = parts[1];
	must(tx_batch(dev, &b) == EMSGSIZE, "a datagram of %zu bytes is no error", large);
	must(!status_of(0).requests && !pins_left(before), "it is a request, or pinned");
	end(false);
}

/* Under a delay: the datagrams are here for a while. */
void udp(const struct send_case *c)
{
	size_t i, size = 1000, n = DATAGRAMS, len;
	socklen_t optlen = sizeof(int);
	struct pin_guard_tx_status st;
	unsigned char *p;
	uint64_t id = 0;
	int mtu = 0;

	begin_kind((struct peer_hello){ .kind = PEER_UDP, .seed = getpid(), .bytes = n * size });
	if (c->param == FRAGMENTS) {
		must(!getsockopt(s.data, strchr(settings.address, ':') ? IPPROTO_IPV6 : IPPROTO_IP,
				 strchr(settings.address, ':') ? 24 /* IPV6_MTU */ :
				 14 /* IP_MTU */, &mtu, &optlen), "MTU: %s", strerror(errno));
		size = mtu + 3000;
		if (size > 65000)
			skip("no datagram is larger than the MTU of %d", mtu);
		close(s.data);
		close(s.control);
		begin_kind((struct peer_hello){ .kind = PEER_UDP, .seed = getpid(),
						.bytes = n * size });
	}
	len = n * size;
	p = next_bytes(len);
	if (c->param == BATCHED)
		id = put_batch(p, n, size, 0, 0).id;
	else
		for (i = 0; i < n; i++)
			id = put(c->mode, p + i * size, size, 0);
	if (c->param == FRAGMENTS) {
		st = status_of(0);
		must(st.copied == n, "%u of %zu fragmented datagrams say that they are copied",
		     st.copied, n);
	} else if (c->mode == PIN_GUARD_TX_GUARD) {
		is_in_flight(0, &st);
		must(tx_abort(dev, id) == EOPNOTSUPP, "UDP has a connection to abort");
	}
	if (c->mode == PIN_GUARD_TX_GUARD && !(c->flags & AT_ONCE))
		must_complete(0);
	overwrite(p, len);
	end(c->flags & LOSES);
}

/* Many sends of one pinned buffer. */
void registered_buffer(const struct send_case *c)
{
	struct pin_guard_tx_buffer b = { .len = 64 * PAGE };
	size_t i;
	struct pin_guard_tx_send r;
	long before = pins_held(), pins;
	unsigned char *p;
	int err;

	begin();
	plug();
	p = map(b.len, 0, -1);
	fill(p, b.len, 0);
	b.addr = (unsigned long)p;
	must(!ioctl(dev, PIN_GUARD_TX_REGISTER, &b), "register: %s", strerror(errno));
	must(pins_held() - before == 64, "%ld pins after a registration of 64 pages",
	     pins_held() - before);
	for (i = 0; i < 64; i++) {
		r = request(c->mode, (void *)(i * PAGE), PAGE);
		r.buffer = b.buffer;
		err = tx_send(dev, &r);
		must(!err && r.sent == PAGE, "send %zu: %s", i, strerror(err));
		s.sent += PAGE;
	}
	pins = pins_held() - before;
	must(pins == 64, "%ld pins for 64 sends of 64 registered pages", pins);
	must(status_of(0).in_flight == 64, "complete, though the peer has not read");
	must(!ioctl(dev, PIN_GUARD_TX_UNREGISTER, &b.buffer), "unregister: %s", strerror(errno));
	must(tx_send(dev, &r) == ENOENT, "a buffer can be used after it was unregistered");
	must(pins_held() - before == 64, "%ld pins after unregistering in flight",
	     pins_held() - before);
	let_go(c, p, b.len);
	must(!pins_left(before), "pins are left");
	end(c->flags & LOSES);
}

/* One buffer, sent several times at once, as duplicates of an RPC are. */
void shared_pins(const struct send_case *c)
{
	struct pin_guard_tx_buffer b = { .len = PAGE };
	struct pin_guard_tx_send r;
	long before = pins_held();
	unsigned char *p = map(PAGE, 0, -1);
	int i;

	/* The pattern of seed 0 is the same everywhere. */
	begin_kind((struct peer_hello){ .kind = PEER_TCP, .seed = 0 });
	plug();
	memset(p, 0, PAGE);
	b.addr = (unsigned long)p;
	must(!ioctl(dev, PIN_GUARD_TX_REGISTER, &b), "register: %s", strerror(errno));
	for (i = 0; i < 100; i++) {
		r = request(c->mode, (void *)(i * 31UL), PAGE - i * 31);
		r.buffer = b.buffer;
		must(!tx_send(dev, &r) && r.sent == r.len, "send %d: %s", i, strerror(errno));
		s.sent += r.len;
	}
	must(pins_held() - before == 1, "%ld pins for one page", pins_held() - before);
	let_go(c, p, PAGE);
	must(!ioctl(dev, PIN_GUARD_TX_UNREGISTER, &b.buffer), "unregister: %s", strerror(errno));
	must(!pins_left(before), "pins are left");
	end(c->flags & LOSES);
}

/* Small sends in a row do not break segments apart. */
void small_sends(const struct send_case *c)
{
	static const unsigned int modes[] = { PIN_GUARD_TX_COPY, PIN_GUARD_TX_GUARD };
	unsigned int i, m, nagle = 1, n = 256, size = 256;
	uint64_t waiting;
	long count[2];
	unsigned char *p;

	for (m = 0; m < 2; m++) {
		begin();
		/* Not held back for being small, but for the window. */
		setsockopt(s.data, IPPROTO_TCP, TCP_NODELAY, &nagle, sizeof(nagle));
		plug();
		do {
			waiting = tcp_info_get(tcpi_notsent_bytes);
			usleep(100000 + settings.delay_ms * 1000);
		} while (waiting != tcp_info_get(tcpi_notsent_bytes));
		/* Without those that the plug will need */
		count[m] = -(long)tcp_info_get(tcpi_data_segs_out) -
			   (long)(waiting / tcp_info_get(tcpi_snd_mss));
		p = next_bytes(n * size);
		for (i = 0; i < n; i++)
			put(modes[m], p + i * size, size, 0);
		if (m)
			must_be_in_flight(0);
		session_command(&s, PEER_GO);
		shutdown(s.data, SHUT_WR);
		must_complete(0);
		end(false);
		count[m] += tcp_info_get(tcpi_data_segs_out);
	}
	must(count[1] <= 2 * count[0] + n / 8, "%ld segments with %s, %ld copied", count[1],
	     mode_names[c->mode], count[0]);
	finish(CASE_PASSED, "%ld segments, %ld copied", count[1], count[0]);
}

/*
 * Memory
 */

static unsigned char *memory_of(int kind, size_t len)
{
	unsigned char *p;
	char name[] = "/var/tmp/send_guard.XXXXXX";
	int fd;

	switch (kind) {
	case THP:
		p = map(2 * HUGE_SIZE, 0, -1);
		p = (unsigned char *)(((unsigned long)p + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
		if (madvise(p, HUGE_SIZE, MADV_HUGEPAGE))
			skip("no transparent huge pages in this kernel");
		return p;
	case HUGETLB:
		p = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGE, -1, 0);
		if (p == MAP_FAILED)
			skip("no free huge page: see /proc/sys/vm/nr_hugepages");
		return p;
	case FILE_SHARED:
		fd = mkstemp(name);
		if (fd < 0 || ftruncate(fd, len + 2 * PAGE))
			skip("%s: %s", name, strerror(errno));
		unlink(name);
		return map(len + 2 * PAGE, 0, fd);
	default:
		return map(len + 2 * PAGE, 0, -1);
	}
}

void memory(const struct send_case *c)
{
	size_t len = 200 * 1024;
	unsigned char *p;
	pid_t pid = 0;

	begin_kind((struct peer_hello){
		.kind = PEER_TCP, .seed = c->param == ZERO_PAGE ? 0 : getpid(),
	});
	plug();
	p = memory_of(c->param, len) + 77;
	if (c->param != ZERO_PAGE)
		fill(p, len, 0);
	if (c->param == READ_ONLY)
		mprotect(p - 77, len + 2 * PAGE, PROT_READ);
	if (c->param == AFTER_FORK) {
		/* The child shares the pages, till it writes. */
		pid = fork();
		if (!pid) {
			usleep(A_WHILE_MS * 1000);
			memset(p, 'C', len);
			pause();
		}
	}
	put(c->mode, p, len, 0);
	if (c->param == FORK_IN_FLIGHT) {
		pid = fork();
		if (!pid) {
			memset(p, 'C', len);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		pid = 0;
	}
	if (c->param == AFTER_FORK)
		usleep(2 * A_WHILE_MS * 1000);
	must(status_of(0).in_flight, "complete, though the peer has not read");
	session_command(&s, PEER_GO);
	must_complete(0);
	if (c->param == READ_ONLY)
		mprotect(p - 77, len + 2 * PAGE, PROT_READ | PROT_WRITE);
	overwrite(p, len);
	if (pid)
		kill(pid, SIGKILL);
	end(false);
}

/*
 * A page into which a read is in flight, shared with a child, is pinned for a send: that gives
 * the parent a copy, and nobody has written. The read is lost, unless pin_guard had the child
 * get the copy.
 */
struct pending_read {
	int fd;
	unsigned char *to;
	ssize_t came;
};

static void *read_thread(void *arg)
{
	struct pending_read *r = arg;

	r->came = pread(r->fd, r->to, PAGE / 2, 0);
	return NULL;
}

void read_in_flight(const struct send_case *c)
{
	unsigned char *page = map(PAGE, 0, -1), content[PAGE];
	struct pending_read r = { .to = page };
	size_t i, lost = 0;
	pthread_t thread;
	uint64_t start;
	pid_t pid;
	int fd;

	if (!settings.file)
		skip("no file: --file");
	for (i = 0; i < PAGE; i++)
		content[i] = peer_byte(1, i);
	fd = open(settings.file, O_RDWR | O_CREAT | O_TRUNC, 0600);
	must(fd >= 0 && write(fd, content, PAGE) == PAGE && !fsync(fd) && !close(fd), "%s: %s",
	     settings.file, strerror(errno));
	r.fd = open(settings.file, O_RDONLY | O_DIRECT);
	must(r.fd >= 0, "%s: %s", settings.file, strerror(errno));
	begin();
	session_command(&s, PEER_GO);

	start = now_ms();
	read_thread(&r);
	must(r.came == PAGE / 2, "read: %s", strerror(errno));
	start = now_ms() - start;
	if (start < 15)
		skip("a read takes %llu ms only: put a delay in its way",
		       (unsigned long long)start);
	memset(page, 0, PAGE);
	fill(page + PAGE / 2, PAGE / 2, 0);

	must(!pthread_create(&thread, NULL, read_thread, &r), "no thread");
	usleep(start * 1000 / 4);
	pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	put(c->mode, page + PAGE / 2, PAGE / 2, 0);
	pthread_join(thread, NULL);
	must(r.came == PAGE / 2, "read: %zd", r.came);
	for (i = 0; i < PAGE / 2; i++)
		lost += page[i] != content[i];
	must_complete(0);
	kill(pid, SIGKILL);
	end(false);
	if (settings.control)
		finish(lost ? CASE_PASSED : CASE_FAILED, "lost %zu of %lu bytes", lost, PAGE / 2);
	must(!lost, "the read lost %zu of %lu bytes", lost, PAGE / 2);
}

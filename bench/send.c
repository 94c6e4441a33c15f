// SPDX-License-Identifier: GPL-2.0
/*
 * What a send costs: copied, with MSG_ZEROCOPY, or guarded, by itself or in a batch. One connection,
 * the ways to send in turn.
 *
 *   send sink PORT			at the other end: takes one connection, ends with it
 *   send LINK ADDRESS PORT BYTES RATE ROUNDS	BYTES each
 *   send scaling LINK ADDRESS PORT BYTES ROUNDS	on one processor, and on two at once: the sink of
 *			the second one has the next port
 *
 * Prints a line per sample: case, series, ns per MiB. First all send as fast as they can: the time
 * that a MiB takes (send-time/LINK/BYTES). Then RATE MiB per second: the CPU time that it takes
 * (send-cpu/LINK/BYTES). How many interrupts, ACKs and segments a MiB makes depends on the rate, so for
 * that it has to be the same for all.
 *
 * The CPU time is that of the whole machine: completions and ACKs are the work of softirqs, which
 * interrupt whom they find. The kernel's own figures will not do: without IRQ_TIME_ACCOUNTING it
 * counts ticks, and what interrupts the idle task as idle. So nothing is idle here. On each CPU
 * somebody counts at the lowest priority: what he could not have is what the rest took.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "pair.h"
#include "../samples/pin_guard_tx.h"

#define MIB		(1UL << 20)
#define BLOCK		(2 * MIB)	/* bytes of a sample, or two rings if that is more */
#define RING		(4 * MIB)	/* bytes in flight at most, */
#define RING_SENDS	256UL		/* and sends */
#define BATCH_SENDS	64U		/* in a call */
#define CPUS		64

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

enum way { COPY, ZEROCOPY, GUARD, REGISTERED, BATCH, BATCH_REGISTERED };

/* Two halves: one is filled and sent while the other is in flight. */
static struct {
	char *buf;
	size_t size;		/* of a send */
	unsigned int sends;
	uint64_t block;		/* bytes of a sample */
} ring;
static int sock;
static int dev[2];		/* requests of either half: one WAIT is for all of them */
static uint64_t registered;	/* of dev[0] and dev[1]: both have the same id */
static unsigned int pending[2];	/* MSG_ZEROCOPY sends of either half */

/*
 * The counters
 */

struct counter {
	_Alignas(64) uint64_t count;
};

static struct counter *counters;
static long cpus;
static double count_ns;		/* what a count takes */

/* The same instructions for all who count. */
static void count(struct counter *c, uint64_t counts)
{
	asm volatile("1: incq %0; dec %1; jnz 1b" : "+m" (c->count), "+r" (counts) : : "cc");
}

static void start_counter(int cpu)
{
	struct sched_param param = { 0 };
	cpu_set_t set;

	if (fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || sched_setscheduler(0, SCHED_IDLE, &param))
		err(1, "cannot count on CPU %d", cpu);
	count(&counters[cpu], ~0ULL);
}

static void start_counters(void)
{
	const struct sched_param first = { .sched_priority = 1 }, normal = { 0 };

	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (cpus > CPUS)
		errx(1, "%ld CPUs, but room for %d; fix: CPUS", cpus, CPUS);
	counters = mmap(NULL, CPUS * sizeof(*counters), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counters == MAP_FAILED)
		err(1, "mmap");
	/* The other end may be about to start. */
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		err(1, "SCHED_FIFO");
	for (int i = 0; i < 9; i++) {
		const uint64_t counts = 1000000;
		uint64_t start = now();
		double ns;

		count(&counters[0], counts);
		ns = (double)(now() - start) / counts;
		if (!i || ns < count_ns)
			count_ns = ns;
	}
	if (sched_setscheduler(0, SCHED_OTHER, &normal))
		err(1, "SCHED_OTHER");
	for (int cpu = 0; cpu < cpus; cpu++)
		start_counter(cpu);
}

static double idle(void)
{
	uint64_t sum = 0;

	for (int cpu = 0; cpu < cpus; cpu++)
		sum += __atomic_load_n(&counters[cpu].count, __ATOMIC_RELAXED);
	return sum * count_ns;
}

/*
 * The ways to send
 */

static char *slot(unsigned int n)
{
	return ring.buf + n * ring.size;
}

/*
 * Full segments, whatever the way. Left to itself TCP makes them if the sender is ahead of the
 * wire, and here there is none to be ahead of.
 */
static bool more(unsigned int n)
{
	return (n + 1) % (ring.sends / 2);
}

static void copy_send(unsigned int n)
{
	if (send(sock, slot(n), ring.size, more(n) ? MSG_MORE : 0) != (ssize_t)ring.size)
		err(1, "send");
}

/* Reads all notifications that are there. */
static bool zerocopy_reap(void)
{
	bool some = false;

	for (;;) {
		char control[128];
		struct msghdr msg = { .msg_control = control, .msg_controllen = sizeof(control) };
		struct sock_extended_err *e;
		struct cmsghdr *c;

		if (recvmsg(sock, &msg, MSG_ERRQUEUE) < 0) {
			if (errno != EAGAIN)
				err(1, "MSG_ERRQUEUE");
			return some;
		}
		c = CMSG_FIRSTHDR(&msg);
		e = c ? (void *)CMSG_DATA(c) : NULL;
		if (!e || e->ee_origin != SO_EE_ORIGIN_ZEROCOPY || e->ee_errno)
			errx(1, "not a notification of MSG_ZEROCOPY");
		/* A block is so many rings: the ids go round with the slots. */
		for (uint32_t id = e->ee_info; id != e->ee_data + 1; id++)
			pending[id % ring.sends >= ring.sends / 2]--;
		some = true;
	}
}

static void zerocopy_wait(int half)
{
	struct pollfd p = { .fd = sock };

	while (pending[half])
		if (!zerocopy_reap() && poll(&p, 1, 10000) != 1)
			errx(1, "no notification of MSG_ZEROCOPY");
}

static void zerocopy_send(unsigned int n)
{
	int flags = MSG_ZEROCOPY | (more(n) ? MSG_MORE : 0);
	struct pollfd p = { .fd = sock };

	while (send(sock, slot(n), ring.size, flags) != (ssize_t)ring.size) {
		/* Too many notifications that nobody has read. */
		if (errno != ENOBUFS || poll(&p, 1, 10000) != 1 || !zerocopy_reap())
			err(1, "MSG_ZEROCOPY");
	}
	pending[n >= ring.sends / 2]++;
}

static void guard_send(unsigned int n, uint64_t buffer)
{
	struct pin_guard_tx_send send = {
		.addr = buffer ? n * ring.size : (uintptr_t)slot(n), .len = ring.size,
		.buffer = buffer, .fd = sock, .mode = PIN_GUARD_TX_GUARD,
		.flags = more(n) ? PIN_GUARD_TX_MORE : 0,
	};

	if (ioctl(dev[n >= ring.sends / 2], PIN_GUARD_TX_SEND, &send) || send.sent != ring.size)
		err(1, "PIN_GUARD_TX_SEND");
}

/* This send, and those of its half that follow. Returns how many. */
static unsigned int batch_send(unsigned int n, uint64_t buffer)
{
	struct pin_guard_tx_part parts[BATCH_SENDS];
	unsigned int left = ring.sends / 2 - n % (ring.sends / 2);
	struct pin_guard_tx_batch batch = {
		.parts = (uintptr_t)parts, .nr = left < BATCH_SENDS ? left : BATCH_SENDS,
		.fd = sock,
	};

	for (unsigned int i = 0; i < batch.nr; i++) {
		++*(uint64_t *)slot(n + i);
		parts[i] = (struct pin_guard_tx_part) {
			.addr = buffer ? (n + i) * ring.size : (uintptr_t)slot(n + i),
			.len = ring.size, .buffer = buffer,
		};
	}
	batch.flags = more(n + batch.nr - 1) ? PIN_GUARD_TX_MORE : 0;
	if (ioctl(dev[n >= ring.sends / 2], PIN_GUARD_TX_BATCH, &batch) ||
	    batch.sent != batch.nr * ring.size)
		err(1, "PIN_GUARD_TX_BATCH");
	return batch.nr;
}

static void guard_wait(int half)
{
	struct pin_guard_tx_status wait = { .timeout_ms = 10000 };

	if (ioctl(dev[half], PIN_GUARD_TX_WAIT, &wait))
		err(1, "PIN_GUARD_TX_WAIT");
}

/* Until the memory of that half may be written again. */
static void wait_for(enum way way, int half)
{
	switch (way) {
	case COPY:
		break;
	case ZEROCOPY:
		zerocopy_wait(half);
		break;
	default:
		guard_wait(half);
	}
}

static void send_block(enum way way)
{
	unsigned int n = 0;
	char reply;

	for (size_t left = ring.block / ring.size; left;) {
		unsigned int sends = 1;

		if (n % (ring.sends / 2) == 0)
			wait_for(way, n != 0);
		if (way != BATCH && way != BATCH_REGISTERED)
			++*(uint64_t *)slot(n);
		switch (way) {
		case COPY:
			copy_send(n);
			break;
		case ZEROCOPY:
			zerocopy_send(n);
			break;
		case GUARD:
		case REGISTERED:
			guard_send(n, way == REGISTERED ? registered : 0);
			break;
		default:
			sends = batch_send(n, way == BATCH_REGISTERED ? registered : 0);
		}
		left -= sends;
		n = (n + sends) % ring.sends;
	}
	wait_for(way, 0);
	wait_for(way, 1);
	if (recv(sock, &reply, 1, 0) != 1)
		err(1, "no reply");
}

static struct addrinfo *resolve(const char *address, const char *port)
{
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = address ? AI_NUMERICHOST : AI_PASSIVE,
		.ai_family = address ? AF_UNSPEC : AF_INET6,
	}, *to;
	int error = getaddrinfo(address, port, &hints, &to);

	if (error)
		errx(1, "%s port %s: %s", address, port, gai_strerror(error));
	return to;
}

static void sink(const char *port)
{
	struct addrinfo *at = resolve(NULL, port);
	int one = 1, listener, fd;
	uint64_t block, left;

	listener = socket(at->ai_family, SOCK_STREAM, 0);
	if (listener < 0 ||
	    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(listener, at->ai_addr, at->ai_addrlen) || listen(listener, 1))
		err(1, "port %s", port);
	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		err(1, "accept");
	if (recv(fd, &block, sizeof(block), MSG_WAITALL) != sizeof(block))
		err(1, "recv");
	left = block;
	for (;;) {
		/* MSG_TRUNC: as cheap whoever sends, and however. */
		ssize_t got = recv(fd, NULL, left < MIB ? left : MIB, MSG_TRUNC);

		if (got < 0)
			err(1, "recv");
		if (!got)
			return;
		left -= got;
		if (!left) {
			left = block;
			if (send(fd, "", 1, MSG_NOSIGNAL) != 1)
				err(1, "send");
		}
	}
}

static void connect_to(const char *address, const char *port)
{
	struct addrinfo *to = resolve(address, port);
	int one = 1;

	/* It may not be there yet. */
	for (int i = 0; i < 100; i++) {
		sock = socket(to->ai_family, SOCK_STREAM, 0);
		if (sock < 0)
			err(1, "socket");
		if (!connect(sock, to->ai_addr, to->ai_addrlen))
			break;
		if (errno != ECONNREFUSED)
			err(1, "%s port %s", address, port);
		close(sock);
		sock = -1;
		usleep(100000);
	}
	if (sock < 0)
		errx(1, "%s port %s: no sink there", address, port);
	if (setsockopt(sock, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
		err(1, "SO_ZEROCOPY");
	if (send(sock, &ring.block, sizeof(ring.block), 0) != sizeof(ring.block))
		err(1, "send");
}

static void pace(unsigned int mib)
{
	uint64_t rate = mib * MIB;

	if (setsockopt(sock, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)))
		err(1, "SO_MAX_PACING_RATE");
}

static void prepare_ring(size_t size)
{
	ring.size = size;
	ring.sends = RING / size < RING_SENDS ? RING / size : RING_SENDS;
	ring.block = 2 * ring.sends * size < BLOCK ? BLOCK : 2 * ring.sends * size;
	if (ring.sends < 2 || ring.sends % 2 || (ring.block / size) % ring.sends)
		errx(2, "%zu: neither do rings have two halves of that, nor a block so many rings", size);
	ring.buf = mmap(NULL, RING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ring.buf == MAP_FAILED || madvise(ring.buf, RING, MADV_NOHUGEPAGE))
		err(1, "no ring");
	memset(ring.buf, 1, RING);
	for (size_t i = 0; i < ARRAY_SIZE(dev); i++) {
		struct pin_guard_tx_buffer buffer = {
			.addr = (uintptr_t)ring.buf, .len = RING,
		};

		dev[i] = open("/dev/pin_guard_tx", O_RDWR);
		if (dev[i] < 0)
			err(1, "/dev/pin_guard_tx");
		if (ioctl(dev[i], PIN_GUARD_TX_REGISTER, &buffer))
			err(1, "PIN_GUARD_TX_REGISTER");
		registered = buffer.buffer;
	}
}

static void measure(const char *link, bool cpu, int rounds)
{
	static const struct {
		const char *name;
		enum way way;
	} series[] = {
		{ "copy", COPY },
		{ "zerocopy", ZEROCOPY },
		{ "guard", GUARD },
		{ "registered", REGISTERED },
		{ "batch", BATCH },
		{ "batch-registered", BATCH_REGISTERED },
		{ "again", COPY },
	};

	/* The first round is for the caches and the congestion window. */
	for (int round = -1; round < rounds; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(series); i++) {
			/* Which of them goes first changes from round to round. */
			size_t which = (round + 1 + i) % ARRAY_SIZE(series);
			double idle_before = idle(), ns;
			uint64_t start = now();

			send_block(series[which].way);
			ns = now() - start;
			if (cpu)
				ns = ns * cpus - (idle() - idle_before);
			if (round >= 0)
				printf("send-%s/%s/%zu %s %.0f\n", cpu ? "cpu" : "time", link,
				       ring.size, series[which].name, ns * MIB / ring.block);
		}
	}
}

static const struct {
	const char *name;
	enum way way;
} scaled_work[] = {
	{ "copy", COPY },
	{ "zerocopy", ZEROCOPY },
	{ "guard", GUARD },
	{ "registered", REGISTERED },
};

static struct {
	const char *address;
	int port;
	size_t size;
} scaled;

static void *prepare_scaled(int cpu)
{
	char port[16];

	snprintf(port, sizeof(port), "%d", scaled.port + cpu);
	prepare_ring(scaled.size);
	connect_to(scaled.address, port);
	return NULL;
}

static void work_scaled(void *, int kind)
{
	send_block(scaled_work[kind].way);
}

static void measure_scaling(const char *link, int rounds)
{
	struct pair *pair = pair_new(prepare_scaled, work_scaled);
	const char *names[ARRAY_SIZE(scaled_work)];

	for (size_t k = 0; k < ARRAY_SIZE(scaled_work); k++) {
		static char name[ARRAY_SIZE(scaled_work)][64];

		snprintf(name[k], sizeof(name[k]), "%s/send-%s", link, scaled_work[k].name);
		names[k] = name[k];
	}
	for (int i = 0; i < 2; i++)
		pair_fork(pair, i);
	pair_measure(pair, names, ARRAY_SIZE(scaled_work), rounds);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (argc == 3 && !strcmp(argv[1], "sink")) {
		sink(argv[2]);
	} else if (argc == 7 && !strcmp(argv[1], "scaling")) {
		scaled.address = argv[3];
		scaled.port = atoi(argv[4]);
		scaled.size = atol(argv[5]);
		measure_scaling(argv[2], atoi(argv[6]));
	} else if (argc == 7) {
		prepare_ring(atol(argv[4]));
		start_counters();
		connect_to(argv[2], argv[3]);
		measure(argv[1], false, atoi(argv[6]));
		/* Only now: at a rate of its own TCP would have opened its window as chance has it. */
		pace(atoi(argv[5]));
		measure(argv[1], true, atoi(argv[6]));
	} else {
		errx(2, "usage: see the head of the source");
	}
	return 0;
}

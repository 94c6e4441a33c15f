// SPDX-License-Identifier: GPL-2.0
/* lifetime: sends by /dev/pin_guard_tx. The peer reads when the sender has come to its end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lifetime.h"
#include "page.h"
#include "sender.h"

#define LEN		(1UL << 20)	/* more than the peer's window */
#define ROOM		(8 << 20)	/* in the send queue: nothing blocks */
#define NO_ROOM		(64 << 10)
#define CHURN		(48UL << 20)
#define MEMLOCK_PAGES	64UL

static struct session s;
static const char *address;
static int dev;
static uint64_t id;

static unsigned char *stream(size_t len)
{
	unsigned char *p = mmap(NULL, len + PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t i;

	must(p != MAP_FAILED, "mmap: %s", strerror(errno));
	p += 123;
	for (i = 0; i < len; i++)
		p[i] = peer_byte(s.seed, i);
	return p;
}

static void begin(void)
{
	session_open(&s, address, (struct peer_hello){ .kind = PEER_TCP, .seed = getpid() });
}

static int dev_open(void)
{
	int fd = tx_open();

	must(fd >= 0, TX_DEVICE ": %s", strerror(errno));
	return fd;
}

/* Pages that were let go too early would be somebody else's now. */
static void churn(void)
{
	char *p = mmap(NULL, CHURN, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	must(p != MAP_FAILED, "mmap: %s", strerror(errno));
	memset(p, PEER_OVERWRITTEN, CHURN);
	munmap(p, CHURN);
}

/* The peer reads all there is: @bytes, or as many as there are. */
static void peer_must_have(size_t bytes)
{
	struct peer_report r;

	churn();
	shutdown(s.data, SHUT_WR);
	session_command(&s, PEER_GO);
	r = session_report(&s, PEER_END);
	count_lost(r.bad, "the peer got other bytes");
	must(!r.bad, "the peer: %llu bytes are wrong, the first at %llu",
	     (unsigned long long)r.bad, (unsigned long long)r.first_bad);
	must(!bytes || r.received == bytes, "the peer: expected %zu bytes, came %llu", bytes,
	     (unsigned long long)r.received);
	close(s.data);
	close(s.control);
}

static struct pin_guard_tx_send request(void *p, size_t len)
{
	struct pin_guard_tx_send r = {
		.addr = (unsigned long)p, .len = len, .fd = s.data, .mode = PIN_GUARD_TX_GUARD,
	};
	struct pin_guard_tx_buffer b = { .addr = r.addr, .len = len };

	if (with & SEND_REGISTERED) {
		must(!ioctl(dev, PIN_GUARD_TX_REGISTER, &b), "register: %s", strerror(errno));
		r.buffer = b.buffer;
		r.addr = 0;
	}
	return r;
}

/* In flight when it returns. */
static void send_all(void)
{
	struct pin_guard_tx_status status;
	struct pin_guard_tx_send r;
	int err;

	dev = dev_open();
	send_room(s.data, ROOM);
	r = request(stream(LEN), LEN);
	err = tx_send(dev, &r);
	must(!err && r.sent == LEN, "send: came %s, %llu of %lu bytes", strerror(err), r.sent, LEN);
	id = r.id;
	err = tx_status(dev, id, &status);
	must(!err && status.in_flight == 1 && status.pinned, "the send is not in flight");
}

static void must_be_held(void)
{
	must(counter("sends_in_flight") > 0 && pins_held() > pins_before, "nothing is in flight");
}

static void send_and_idle(void)
{
	send_all();
	victim_ready();
	for (;;)
		pause();
}

static void send_and_wait(void)
{
	struct pin_guard_tx_status status;

	send_all();
	victim_ready();
	tx_wait(dev, id, NO_LIMIT, &status);
	give_up("WAIT is over before the peer reads");
}

static void send_and_exit(void)
{
	send_all();
	_exit(EXEC_STATUS);
}

static void send_and_exec(void)
{
	send_all();
	exec_self();
}

/* Kills what runs @body, @ms after it says that it is ready. */
static void begin_and_kill(void (*body)(void), unsigned int ms)
{
	struct victim v;

	begin();
	v = victim_start(body);
	victim_await_ready(&v);
	nap_ms(ms);
	kill(v.pid, SIGKILL);
	victim_must_end(&v, SIGKILL, 0);
}

static void killed(void (*body)(void))
{
	begin_and_kill(body, 50);
	must_be_held();
	must_be_busy("pin_guard_tx");
	peer_must_have(LEN);
}

static void killed_in_flight(void)
{
	killed(send_and_idle);
}

static void killed_in_wait(void)
{
	killed(send_and_wait);
}

static void ended(void (*body)(void))
{
	struct victim v;

	begin();
	v = victim_start(body);
	victim_must_end(&v, 0, EXEC_STATUS);
	must_be_held();
	must_be_busy("pin_guard_tx");
	peer_must_have(LEN);
}

static void exits_in_flight(void)
{
	ended(send_and_exit);
}

static void execs_in_flight(void)
{
	ended(send_and_exec);
}

static void send_and_eat(void)
{
	group_join();
	send_all();
	victim_ready();
	group_write("memory.max", 32 << 20);
	eat_memory();
}

static void oom_in_flight(void)
{
	long before = group_read("memory.events", "oom_kill");
	struct victim v;

	begin();
	v = victim_start(send_and_eat);
	victim_await_ready(&v);
	victim_must_end(&v, SIGKILL, 0);
	must(group_read("memory.events", "oom_kill") > before, "memory.events counts no oom_kill");
	must_be_held();
	peer_must_have(LEN);
}

/* There is no room in the send queue: the call sleeps. */
static void send_in_pieces(void)
{
	struct pin_guard_tx_send r;
	size_t left = LEN;
	int err;

	dev = dev_open();
	send_room(s.data, NO_ROOM);
	r = request(stream(LEN), LEN);
	victim_ready();
	while (left) {
		err = tx_send(dev, &r);
		must(!err || err == EINTR, "send: %s", strerror(err));
		if (err) {
			set_errno(err);
			continue;
		}
		must(r.sent && r.sent <= left, "sent %llu of %zu bytes", r.sent, left);
		r.addr += r.sent;
		left -= r.sent;
		r.len = left;
	}
}

static void send_in_pieces_and_exit(void)
{
	send_in_pieces();
	_exit(EXEC_STATUS);
}

static void killed_in_send(void)
{
	begin_and_kill(send_in_pieces_and_exit, 300);
	/* What it was to be told as sent is not known. */
	peer_must_have(0);
}

static void send_in_a_storm(void)
{
	struct pin_guard_tx_status status;
	int err;

	storm_begin();
	send_in_pieces();
	err = tx_wait(dev, 0, NO_LIMIT, &status);
	must(!err, "WAIT: expected no interruption by a signal, came %s", strerror(err));
	storm_end();
	_exit(EXEC_STATUS);
}

static void signals(void)
{
	struct victim v;

	begin();
	v = victim_start(send_in_a_storm);
	victim_await_ready(&v);
	nap_ms(300);
	session_command(&s, PEER_GO);
	victim_must_end(&v, 0, EXEC_STATUS);
	peer_must_have(LEN);
}

static void pass_and_exit(void)
{
	send_all();
	victim_pass_fd(dev);
	_exit(EXEC_STATUS);
}

/* Who waits is another process, and the memory is gone. */
static void file_is_passed_on(void)
{
	struct pin_guard_tx_status status;
	struct victim v;
	int fd, err;

	begin();
	v = victim_start(pass_and_exit);
	fd = victim_take_fd(&v);
	victim_must_end(&v, 0, EXEC_STATUS);
	must_be_held();
	err = tx_wait(fd, 1, 50, &status);
	must(err == ETIMEDOUT, "WAIT before the peer reads: expected ETIMEDOUT, came %s",
	     strerror(err));
	session_command(&s, PEER_GO);
	err = tx_wait(fd, 1, NO_LIMIT, &status);
	must(!err && status.sent == LEN, "WAIT: came %s, %llu of %lu bytes", strerror(err),
	     status.sent, LEN);
	close(fd);
	peer_must_have(LEN);
}

/* The sender lives on, but nothing that is its own says so. */
static void files_are_closed(void)
{
	begin();
	send_all();
	close(dev);
	must_be_held();
	must_be_busy("pin_guard_tx");
	count_run();
	peer_must_have(LEN);
}

static void over_memlock(void)
{
	struct pin_guard_tx_send r;
	unsigned char *p = stream(2 * LEN);
	int err;

	dev = dev_open();
	send_room(s.data, ROOM);
	become_limited(MEMLOCK_PAGES * PAGE);
	/* It begins inside a page. */
	r = request(p, (MEMLOCK_PAGES - 1) * PAGE);
	err = tx_send(dev, &r);
	must(!err && r.sent == (MEMLOCK_PAGES - 1) * PAGE, "send up to the limit: came %s, %llu bytes",
	     strerror(err), r.sent);
	r = (struct pin_guard_tx_send){
		.addr = (unsigned long)p, .len = 1, .fd = s.data, .mode = PIN_GUARD_TX_GUARD,
	};
	err = tx_send(dev, &r);
	must(err == ENOBUFS, "over RLIMIT_MEMLOCK: expected ENOBUFS, came %s", strerror(err));
	set_errno(err);
	victim_ready();
	for (;;)
		pause();
}

/* What is refused leaves alone what is in flight; the end of the sends gives back the charge. */
static void memlock_is_exceeded(void)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		struct victim v;

		begin();
		v = victim_start(over_memlock);
		victim_await_ready(&v);
		must_be_held();
		kill(v.pid, SIGKILL);
		victim_must_end(&v, SIGKILL, 0);
		peer_must_have((MEMLOCK_PAGES - 1) * PAGE);
		await(pins_held() == pins_before, "the pins come back");
	}
}

const struct life_case send_cases[] = {
	{ .name = "SIGKILL in flight", .run = killed_in_flight, .with = SENDS },
	{ .name = "SIGKILL in SEND", .run = killed_in_send, .with = SENDS },
	{ .name = "SIGKILL in WAIT", .run = killed_in_wait, .with = SENDS },
	{ .name = "exit_group in flight", .run = exits_in_flight, .with = SENDS },
	{ .name = "exec in flight", .run = execs_in_flight, .with = SENDS },
	{ .name = "OOM kill in flight", .run = oom_in_flight, .with = SENDS, .group = true },
	{ .name = "signals in SEND and WAIT", .run = signals, .with = SENDS },
	{ .name = "the file is passed on", .run = file_is_passed_on, .with = SENDS },
	{ .name = "files are closed in flight", .run = files_are_closed, .with = SENDS },
	{ .name = "RLIMIT_MEMLOCK is exceeded", .run = memlock_is_exceeded, .with = SEND_OWN },
};

const unsigned int nr_send_cases = ARRAY_SIZE(send_cases);

void send_setup(const char *to)
{
	int fd = tx_open();

	if (fd < 0)
		ksft_exit_skip(TX_DEVICE ": %s\n", strerror(errno));
	close(fd);
	address = to;
}

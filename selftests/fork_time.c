// SPDX-License-Identifier: GPL-2.0
/*
 * How long forks take while I/O is in flight: not for the I/O of a page, not for windows times
 * mappings, and those of others as long as ever. Each time is compared with one of the same run
 * in which no window is open.
 *
 * PIN_GUARD_DIR		a mount of NFS, with the server behind the device lo
 * PIN_GUARD_DELAY_MS		a delay of the wire that is long for this machine
 * PIN_GUARD_SLOW_SWAP		a command that makes the swap device slow ("slow") or not ("fast")
 * PIN_GUARD_GROUP		the directory of an empty memory cgroup, which swaps
 * PIN_GUARD_WINDOWS		how many are open, in the tests of many
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "counters.h"
#include "hold.h"
#include "page.h"
#include "request.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

#define ROUNDS		3
#define STRANGER	"--stranger"	/* what this program is called as */

static unsigned int number_env(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text ? atoi(text) : otherwise;
}

static bool run(const char *fmt, ...)
{
	char command[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	return !system(command);
}

/* What is on its way arrives, if late: a wire that is taken away would lose it. */
static bool wire(unsigned int ms)
{
	return run("tc qdisc replace dev lo root netem delay %ums limit 100000", ms);
}

/* So many mappings, each with a page. */
static char *map_many(unsigned int nr)
{
	char *p = map_pages(2 * nr * PAGE, 0);
	unsigned int i;

	madvise(p, 2 * nr * PAGE, MADV_NOHUGEPAGE);
	for (i = 0; i < nr; i++) {
		p[2 * i * PAGE] = 1;
		if (mprotect(p + (2 * i + 1) * PAGE, PAGE, PROT_NONE))
			return NULL;
	}
	return p;
}

/*
 * Reads over NFS
 */

FIXTURE(nfs) {
	const char *dir;
	unsigned int delay_ms;
	char name[2][PATH_MAX];
	int fd[2];
};

/* Its pages are in no cache of the client. */
static int file_make(char *name, const char *dir, const char *what, size_t len)
{
	uint64_t *content = aligned_alloc(PAGE, len);
	bool written;
	size_t i;
	int fd;

	for (i = 0; i < len / 8; i++)
		content[i] = PATTERN + i;
	snprintf(name, PATH_MAX, "%s/fork_time.%s.%d", dir, what, getpid());
	fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
	written = fd >= 0 && write(fd, content, len) == (ssize_t)len;
	free(content);
	return written ? fd : -1;
}

FIXTURE_SETUP(nfs)
{
	self->dir = getenv("PIN_GUARD_DIR");
	self->delay_ms = number_env("PIN_GUARD_DELAY_MS", 1000);
	self->fd[0] = self->fd[1] = -1;
	if (!self->dir)
		SKIP(return, "PIN_GUARD_DIR names no mount of NFS");
}

FIXTURE_TEARDOWN(nfs)
{
	unsigned int i;

	wire(0);
	for (i = 0; i < ARRAY_SIZE(self->fd); i++) {
		if (self->fd[i] < 0)
			continue;
		close(self->fd[i]);
		unlink(self->name[i]);
	}
}

struct reader {
	int fd;
	char *to;
	size_t len;
	ssize_t result;
	atomic_bool done;
};

static void *read_all(void *arg)
{
	struct reader *r = arg;

	r->result = pread(r->fd, r->to, r->len, 0);
	atomic_store(&r->done, true);
	return NULL;
}

/* Another process, which looks at our /proc/PID/cmdline as ps does: how long that takes at most. */
struct ps {
	pid_t pid;
	double *worst_ms;
	atomic_bool *stop;
};

static struct ps ps_start(void)
{
	struct ps ps;
	char path[64], text[100];

	ps.worst_ms = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ps.stop = (atomic_bool *)(ps.worst_ms + 1);
	snprintf(path, sizeof(path), "/proc/%d/cmdline", getpid());
	ps.pid = fork();
	while (!ps.pid) {
		double start = now_ms(), ms;
		int fd = open(path, O_RDONLY);

		(void)!read(fd, text, sizeof(text));
		close(fd);
		ms = now_ms() - start;
		if (ms > *ps.worst_ms)
			*ps.worst_ms = ms;
		if (atomic_load(ps.stop) || getppid() == 1)
			_exit(0);
		nap_ms(5);
	}
	return ps;
}

static double ps_end(struct ps *ps)
{
	atomic_store(ps->stop, true);
	waitpid(ps->pid, NULL, 0);
	return *ps->worst_ms;
}

#define SLOW_LEN	(4 * PAGE)

TEST_F_TIMEOUT(nfs, a_page_whose_file_is_slow_is_not_waited_for, 600)
{
	double without[ROUNDS], with[ROUNDS], ps_with[ROUNDS], idle, busy, ps_busy;
	unsigned int i, in_flight = 0;
	int err;

	for (i = 0; i < 2 * ROUNDS; i++) {
		bool reads = i % 2;
		struct reader r = { .len = SLOW_LEN };
		pthread_t thread;
		struct ps ps;
		double ms, worst;
		size_t w;

		self->fd[0] = r.fd = file_make(self->name[0], self->dir, "read", SLOW_LEN);
		self->fd[1] = file_make(self->name[1], self->dir, "mapped", SLOW_LEN);
		ASSERT_LE(0, self->fd[0]);
		ASSERT_LE(0, self->fd[1]);
		r.to = mmap(NULL, SLOW_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd[1], 0);
		ASSERT_NE(MAP_FAILED, r.to);
		madvise(r.to, SLOW_LEN, MADV_RANDOM);
		/* It has an anon_vma: the last page is ours already. */
		r.to[SLOW_LEN - 1] = 1;
		ps = ps_start();
		ASSERT_TRUE(wire(self->delay_ms));
		if (reads)
			ASSERT_EQ(0, pthread_create(&thread, NULL, read_all, &r));
		nap_ms(self->delay_ms / 2);
		ms = fork_wall_ms(&err);
		in_flight += reads && !atomic_load(&r.done);
		worst = ps_end(&ps);
		EXPECT_EQ(0, err);
		(reads ? with : without)[i / 2] = ms;
		if (reads)
			ps_with[i / 2] = worst;
		wire(0);
		if (reads) {
			pthread_join(thread, NULL);
			EXPECT_EQ((ssize_t)SLOW_LEN, r.result);
			for (w = 0; w < SLOW_LEN / 8; w++)
				ASSERT_EQ(PATTERN + w, ((uint64_t *)r.to)[w]);
		}
		munmap(r.to, SLOW_LEN);
		close(self->fd[0]);
		close(self->fd[1]);
		unlink(self->name[0]);
		unlink(self->name[1]);
		self->fd[0] = self->fd[1] = -1;
	}
	idle = median(without, ROUNDS);
	busy = median(with, ROUNDS);
	ps_busy = median(ps_with, ROUNDS);
	TH_LOG("fork takes %.1f ms without the read, %.1f ms with it; /proc/PID/cmdline %.1f ms; the wire %u ms",
	       idle, busy, ps_busy, 2 * self->delay_ms);
	EXPECT_EQ(ROUNDS, in_flight) {
		TH_LOG("the read was over before the fork");
	}
	/* Who waits for a page waits for the wire, twice. */
	EXPECT_GE(3 * idle + self->delay_ms / 2, busy);
	EXPECT_GE(3 * idle + self->delay_ms / 2, ps_busy);
}

#define MAPPINGS	4000
#define READS		8	/* each is a request to the server for each segment */
#define SEGMENTS	1000

TEST_F_TIMEOUT(nfs, reads_do_not_cost_by_the_mapping, 1800)
{
	char *many = map_many(MAPPINGS), *to = map_pages(4 * PAGE, 0);
	static struct iovec segments[SEGMENTS];
	double without[ROUNDS], with[ROUNDS], idle, busy;
	struct iocb cb[READS], *cbs[READS];
	struct io_event events[READS];
	aio_context_t ctx = 0;
	unsigned int i, j;
	int err;

	ASSERT_NE(NULL, many);
	memset(to, 1, 4 * PAGE);
	self->fd[0] = file_make(self->name[0], self->dir, "read", PAGE);
	ASSERT_LE(0, self->fd[0]);
	ASSERT_EQ(0, syscall(SYS_io_setup, READS, &ctx));
	for (i = 0; i < SEGMENTS; i++)
		segments[i] = (struct iovec){ to + i * 8 % (4 * PAGE), 4 };
	for (i = 0; i < READS; i++) {
		cb[i] = (struct iocb){
			.aio_fildes = self->fd[0], .aio_lio_opcode = IOCB_CMD_PREADV,
			.aio_buf = (unsigned long)segments, .aio_nbytes = SEGMENTS,
		};
		cbs[i] = &cb[i];
	}
	fork_ms(&err);
	for (i = 0; i < ROUNDS; i++) {
		without[i] = fork_ms(&err);
		EXPECT_EQ(0, err);
		ASSERT_TRUE(wire(5 * self->delay_ms));
		for (j = 0; j < READS; j++)
			ASSERT_EQ(1, syscall(SYS_io_submit, ctx, 1, &cbs[j]));
		with[i] = fork_ms(&err);
		EXPECT_EQ(0, err);
		EXPECT_EQ(0, syscall(SYS_io_getevents, ctx, 0, READS, events,
				     &(struct timespec){ 0 })) {
			TH_LOG("reads were over before the fork");
		}
		wire(0);
		ASSERT_EQ(READS, syscall(SYS_io_getevents, ctx, READS, READS, events, NULL));
	}
	idle = median(without, ROUNDS);
	busy = median(with, ROUNDS);
	TH_LOG("fork takes %.1f ms without reads, %.1f ms with %u reads of %u segments", idle, busy,
	       READS, SEGMENTS);
	EXPECT_GE(4 * idle, busy);
}

/*
 * Requests of the device
 */

FIXTURE(device) {
	struct hold hold;
	unsigned int windows;
};

FIXTURE_SETUP(device)
{
	struct rlimit files = { 4096, 4096 };

	self->windows = number_env("PIN_GUARD_WINDOWS", 32768);
	setrlimit(RLIMIT_NOFILE, &files);
	if (!hold_open(&self->hold))
		SKIP(return, "%s: %s", DMA_DEVICE, strerror(errno));
}

FIXTURE_TEARDOWN(device)
{
	hold_end(&self->hold);
}

#define FORKS		3

/* Every other page of @p. Returns 0 or an errno. */
static int hold_many(struct hold *h, char *p, unsigned int nr, unsigned int mode)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < nr && !err; i++)
		err = hold_submit(h, p + 2 * i * PAGE, PAGE, mode);
	return err;
}

/* A pin costs what the kernel takes to copy the page for the child, too. */
TEST_F_TIMEOUT(device, windows_cost_what_their_pages_cost, 1800)
{
	static const unsigned int modes[] = { PIN_GUARD_DMA_PIN, PIN_GUARD_DMA_WINDOW };
	char *many = map_many(MAPPINGS / 2), *p = map_pages(2 * self->windows * PAGE, 0);
	double ms[2][FORKS], pins, windows;
	unsigned int i, m;
	int err;

	ASSERT_NE(NULL, many);
	madvise(p, 2 * self->windows * PAGE, MADV_NOHUGEPAGE);
	for (m = 0; m < ARRAY_SIZE(modes); m++) {
		ASSERT_EQ(0, hold_many(&self->hold, p, self->windows, modes[m]));
		for (i = 0; i < FORKS; i++) {
			ms[m][i] = fork_ms(&err);
			EXPECT_EQ(0, err);
		}
		hold_end(&self->hold);
	}
	pins = median(ms[0], FORKS);
	windows = median(ms[1], FORKS);
	TH_LOG("fork takes %.1f ms with %u pinned pages, %.1f ms with as many windows", pins,
	       self->windows, windows);
	EXPECT_GE(3 * pins, windows);
}

#define STRANGERS	200
#define STRANGER_FORKS	5
#define STRANGER_TURNS	4

/* A program of its own, with its own mm: each time that it is asked it says how long its fork takes,
 * the shortest of some.
 */
static int stranger(void)
{
	double best, ms;
	unsigned int i;
	int err;
	char byte;

	while (read(0, &byte, 1) == 1) {
		best = 1e9;
		for (i = 0; i < STRANGER_FORKS; i++) {
			ms = fork_ms(&err);
			best = ms < best ? ms : best;
		}
		if (write(1, &best, sizeof(best)) != sizeof(best))
			return 1;
	}
	return 0;
}

struct strangers {
	double median_ms;
	unsigned int slow;	/* those that take three times as long, whenever they are asked */
};

/* All are there at once, so that their mms differ; they fork one after the other. Who waits for a
 * lock of somebody's windows does so each time; who was slow because the machine did something else
 * is not when asked again.
 */
static bool ask_strangers(struct strangers *s)
{
	static int ask[STRANGERS], answer[STRANGERS];
	static pid_t pid[STRANGERS];
	double ms[STRANGERS], sorted[STRANGERS], again;
	bool right = true;
	unsigned int i, turn;

	for (i = 0; i < STRANGERS; i++) {
		int to[2], from[2];

		if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
			return false;
		pid[i] = vfork();
		if (!pid[i]) {
			dup2(to[0], 0);
			dup2(from[1], 1);
			execl("/proc/self/exe", "fork_time", STRANGER, NULL);
			_exit(1);
		}
		ask[i] = to[1];
		answer[i] = from[0];
		close(to[0]);
		close(from[1]);
		ms[i] = 1e9;
	}
	nap_ms(500);
	s->median_ms = 0;
	for (turn = 0; turn < STRANGER_TURNS; turn++) {
		for (i = 0; i < STRANGERS; i++) {
			if (ms[i] <= 3 * s->median_ms)
				continue;
			right &= write(ask[i], "", 1) == 1;
			right &= read(answer[i], &again, sizeof(again)) == sizeof(again);
			ms[i] = again < ms[i] ? again : ms[i];
		}
		memcpy(sorted, ms, sizeof(ms));
		s->median_ms = median(sorted, STRANGERS);
	}
	s->slow = 0;
	for (i = 0; i < STRANGERS; i++) {
		s->slow += ms[i] > 3 * s->median_ms;
		close(ask[i]);
		close(answer[i]);
		waitpid(pid[i], NULL, 0);
	}
	return right;
}

TEST_F_TIMEOUT(device, strangers_do_not_notice, 1800)
{
	char *p = map_pages(2 * self->windows * PAGE, 0);
	struct strangers without[2], with;
	unsigned int slow;

	madvise(p, 2 * self->windows * PAGE, MADV_NOHUGEPAGE);
	ASSERT_TRUE(ask_strangers(&without[0]));
	ASSERT_EQ(0, hold_many(&self->hold, p, self->windows, PIN_GUARD_DMA_WINDOW));
	ASSERT_TRUE(ask_strangers(&with));
	hold_end(&self->hold);
	ASSERT_TRUE(ask_strangers(&without[1]));
	slow = without[0].slow > without[1].slow ? without[0].slow : without[1].slow;
	TH_LOG("with %u windows elsewhere %u of %u forks take three times the median of %.2f ms; without %u of %.2f ms and %u of %.2f ms",
	       self->windows, with.slow, STRANGERS, with.median_ms, without[0].slow,
	       without[0].median_ms, without[1].slow, without[1].median_ms);
	EXPECT_GE(slow + STRANGERS / 50, with.slow);
	EXPECT_GE(2 * (without[0].median_ms + without[1].median_ms) / 2, with.median_ms);
}

/* Is in swap, and not in the swap cache. */
static bool is_out(char *p)
{
	unsigned char resident = 1;
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (pread(fd, &entry, 8, (unsigned long)p / PAGE * 8) != 8)
		entry = 0;
	close(fd);
	return entry >> 62 & 1 && !mincore(p, PAGE, &resident) && !(resident & 1);
}

static bool write_to(const char *dir, const char *file, const char *text)
{
	char path[PATH_MAX];
	bool right;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY);
	right = fd >= 0 && write(fd, text, strlen(text)) > 0;
	close(fd);
	return right;
}

TEST_F_TIMEOUT(device, a_page_in_swap_is_not_waited_for, 600)
{
	static const unsigned int modes[] = { PIN_GUARD_DMA_GET, PIN_GUARD_DMA_WINDOW };
	const char *swap = getenv("PIN_GUARD_SLOW_SWAP"), *group = getenv("PIN_GUARD_GROUP");
	unsigned int delay_ms = number_env("PIN_GUARD_DELAY_MS", 1000), i, tries;
	double ms[2][ROUNDS], without, with;
	char *p = map_pages(PAGE, 0), pid[20];
	int err;

	if (!swap || !group)
		SKIP(return, "no slow swap device");
	snprintf(pid, sizeof(pid), "%d", getpid());
	ASSERT_TRUE(write_to(group, "cgroup.procs", pid));
	for (i = 0; i < 2 * ROUNDS; i++) {
		memset(p, '.', PAGE);
		ASSERT_EQ(0, hold_submit(&self->hold, p, PAGE, modes[i % 2]));
		/* Another page in its place, which nothing holds. */
		madvise(p, PAGE, MADV_DONTNEED);
		memset(p, '.', PAGE);
		for (tries = 0; !is_out(p) && tries < 100; tries++) {
			madvise(p, PAGE, MADV_PAGEOUT);
			write_to(group, "memory.reclaim", "1M");
			nap_ms(10);
		}
		if (!is_out(p))
			SKIP(return, "the page does not go to swap");
		ASSERT_TRUE(run("%s slow", swap));
		ms[i % 2][i / 2] = fork_wall_ms(&err);
		EXPECT_EQ(0, err);
		ASSERT_TRUE(run("%s fast", swap));
		hold_end(&self->hold);
		EXPECT_EQ('.', p[0]);
	}
	without = median(ms[0], ROUNDS);
	with = median(ms[1], ROUNDS);
	TH_LOG("fork takes %.1f ms without a window, %.1f ms with it; the swap device %u ms", without,
	       with, delay_ms);
	EXPECT_GE(3 * without + delay_ms / 2, with);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], STRANGER))
		return stranger();
	if (!getenv("PIN_GUARD_DIR"))
		need_device();
	return test_harness_run(argc, argv);
}

// SPDX-License-Identifier: GPL-2.0
/* PinGuard through /dev/pin_guard_dma: errors, limits, sizes, alignment, runs, life time. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "counters.h"
#include "page.h"
#include "request.h"

#define UNTOUCHED	0xee
#define SLOW_MS		300	/* long enough to act while the request is in flight */
#define NOBODY		65534
#define SMAPS		"/proc/self/smaps_rollup"

/* Submits and waits. */
static int transfer(int fd, void *addr, size_t len, unsigned int mode, unsigned int op,
		    struct pin_guard_dma_wait *w)
{
	uint64_t id;

	return submit(fd, addr, len, mode, op, 0, &id) ?: wait_for(fd, id, w);
}

static unsigned char pattern_byte(size_t i)
{
	return PATTERN >> i % 8 * 8;
}

/* The first byte of the area that is wrong after a fill of @len bytes at @at, or -1. */
static ssize_t first_wrong(const char *area, size_t size, size_t at, size_t len)
{
	size_t i;

	for (i = 0; i < size; i++) {
		bool inside = i >= at && i < at + len;

		if ((unsigned char)area[i] != (inside ? pattern_byte(i - at) : UNTOUCHED))
			return i;
	}
	return -1;
}

FIXTURE(device) {
	int fd;
	long pins;
};

FIXTURE_SETUP(device)
{
	self->fd = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	self->pins = pins_held();
}

FIXTURE_TEARDOWN(device)
{
	close(self->fd);
	EXPECT_EQ(0, pins_left(self->pins)) {
		TH_LOG("pins were left");
	}
}

/* The same, with each kind of pin */
FIXTURE(guard) {
	int fd;
	long pins;
};

FIXTURE_VARIANT(guard) {
	unsigned int mode;
};

FIXTURE_VARIANT_ADD(guard, pin) {
	.mode = PIN_GUARD_DMA_PIN,
};

FIXTURE_VARIANT_ADD(guard, longterm) {
	.mode = PIN_GUARD_DMA_PIN_LONGTERM,
};

FIXTURE_SETUP(guard)
{
	self->fd = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	self->pins = pins_held();
}

FIXTURE_TEARDOWN(guard)
{
	close(self->fd);
	EXPECT_EQ(0, pins_left(self->pins)) {
		TH_LOG("pins were left");
	}
}

TEST_F(device, bad_requests_are_refused)
{
	char *p = map_pages(PAGE, 0);
	unsigned long a = (unsigned long)p;
	const struct {
		const char *what;
		struct pin_guard_dma_submit s;
		int expected;
	} bad[] = {
		{ "length 0", { .addr = a, .mode = 2 }, EINVAL },
		{ "the end of the address space", { .addr = -PAGE, .len = 2 * PAGE, .mode = 2 },
		  EINVAL },
		{ "an unknown mode", { .addr = a, .len = 1, .mode = 4 }, EINVAL },
		{ "an unknown op", { .addr = a, .len = 1, .mode = 2, .op = 2 }, EINVAL },
		{ "flags", { .addr = a, .len = 1, .mode = 2, .flags = 2 }, EINVAL },
		{ "SUM that counts", { .addr = a, .len = 1, .mode = 2, .op = 1, .flags = 1 }, EINVAL },
		{ "SUM without a pin", { .addr = a, .len = 1, .mode = 0, .op = 1 }, EINVAL },
		{ "SUM in a window", { .addr = a, .len = 1, .mode = 1, .op = 1 }, EINVAL },
		{ "64 MiB and a byte",
		  { .addr = a, .len = PIN_GUARD_DMA_MAX_LEN + 1, .mode = 2 }, E2BIG },
		{ "address 0", { .addr = 0, .len = 1, .mode = 2 }, EFAULT },
		{ "a kernel address",
		  { .addr = 0xffff888000000000ULL, .len = 1, .mode = 2 }, EFAULT },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct pin_guard_dma_submit s = bad[i].s;
		int came = ioctl(self->fd, PIN_GUARD_DMA_SUBMIT, &s) ? errno : 0;

		EXPECT_EQ(bad[i].expected, came) {
			TH_LOG("%s: came %s", bad[i].what, strerror(came));
		}
	}
	EXPECT_EQ(-1, ioctl(self->fd, _IO('P', 0xdf)));
	EXPECT_EQ(ENOTTY, errno);
}

TEST_F(device, unmapped_memory_is_refused)
{
	char *p = map_pages(4 * PAGE, 0);
	unsigned int mode;
	uint64_t id;

	munmap(p + 2 * PAGE, PAGE);
	for (mode = PIN_GUARD_DMA_GET; mode <= PIN_GUARD_DMA_PIN_LONGTERM; mode++) {
		EXPECT_EQ(EFAULT, submit(self->fd, p, 4 * PAGE, mode, PIN_GUARD_DMA_FILL, 0, &id));
		EXPECT_EQ(EFAULT, submit(self->fd, p + 2 * PAGE, 1, mode, PIN_GUARD_DMA_FILL, 0,
					 &id));
		EXPECT_EQ(0, pins_left(self->pins));
	}
	EXPECT_EQ(EFAULT, submit(self->fd, p, 4 * PAGE, PIN_GUARD_DMA_PIN, PIN_GUARD_DMA_SUM, 0,
				 &id));
	EXPECT_EQ(-1, first_wrong(memset(p, UNTOUCHED, 2 * PAGE), 2 * PAGE, 0, 0));
}

TEST_F(device, read_only_memory_is_a_source_only)
{
	struct pin_guard_dma_wait w;
	char *p = map_pages(PAGE, 0);
	unsigned int mode;
	uint64_t id;

	memset(p, 3, PAGE);
	mprotect(p, PAGE, PROT_READ);
	for (mode = PIN_GUARD_DMA_GET; mode <= PIN_GUARD_DMA_PIN_LONGTERM; mode++)
		EXPECT_EQ(EFAULT, submit(self->fd, p, PAGE, mode, PIN_GUARD_DMA_FILL, 0, &id));
	for (mode = PIN_GUARD_DMA_PIN; mode <= PIN_GUARD_DMA_PIN_LONGTERM; mode++) {
		ASSERT_EQ(0, transfer(self->fd, p, PAGE, mode, PIN_GUARD_DMA_SUM, &w));
		EXPECT_EQ((int64_t)PAGE, w.result);
		EXPECT_EQ(3 * PAGE, w.sum);
	}
}

TEST_F_TIMEOUT(guard, every_size_at_odd_offsets, 120)
{
	const size_t sizes[] = {
		1, 2, 7, 511, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 65537, (1 << 20) + 3, HUGE_SIZE,
		(16 << 20) - 1, PIN_GUARD_DMA_MAX_LEN,
	};
	const size_t offsets[] = { 0, 1, 511, PAGE - 1 };
	struct pin_guard_dma_wait w;
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (j = 0; j < ARRAY_SIZE(offsets); j++) {
			size_t at = PAGE + offsets[j], len = sizes[i];
			size_t size = (at + len + 2 * PAGE - 1) & ~(PAGE - 1);
			unsigned int pages = (offsets[j] + len + PAGE - 1) / PAGE;
			char *p;

			/* The large ones once. */
			if (len > 2 << 20 && j != 1)
				continue;
			p = map_pages(size, 0);
			ASSERT_NE(NULL, p);
			memset(p, UNTOUCHED, size);
			ASSERT_EQ(0, transfer(self->fd, p + at, len, variant->mode,
					      PIN_GUARD_DMA_FILL, &w));
			EXPECT_EQ((int64_t)len, w.result);
			EXPECT_EQ(pages, w.pages);
			EXPECT_GE(w.pages, w.runs);
			EXPECT_LT(0, w.runs);
			EXPECT_EQ(-1, first_wrong(p, size, at, len)) {
				ssize_t n = first_wrong(p, size, at, len);

				TH_LOG("%zu bytes at offset %zu: byte %zd of page %zd is 0x%02x",
				       len, offsets[j], n % PAGE, n / PAGE, (unsigned char)p[n]);
			}
			munmap(p, size);
		}
	}
}

TEST_F(guard, sum_is_of_the_bytes_asked_for)
{
	const size_t sizes[] = { 1, PAGE - 1, PAGE + 1, 65537, HUGE_SIZE };
	struct pin_guard_dma_wait w;
	char *p = map_pages(2 * HUGE_SIZE, 0);
	size_t i, j;

	for (i = 0; i < 2 * HUGE_SIZE; i++)
		p[i] = i * 31;
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t sum = 0;

		for (j = 0; j < sizes[i]; j++)
			sum += (unsigned char)p[123 + j];
		ASSERT_EQ(0, transfer(self->fd, p + 123, sizes[i], variant->mode,
				      PIN_GUARD_DMA_SUM, &w));
		EXPECT_EQ(sum, w.sum);
		EXPECT_EQ((int64_t)sizes[i], w.result);
	}
}

TEST_F(guard, a_pattern_counts)
{
	char *p = map_pages(3 * PAGE, 0);
	struct pin_guard_dma_submit s = {
		.addr = (unsigned long)p + 1, .len = 2 * PAGE + 5, .pattern = PATTERN,
		.mode = variant->mode, .flags = PIN_GUARD_DMA_COUNT,
	};
	struct pin_guard_dma_wait w;
	uint64_t word;
	size_t i;

	ASSERT_EQ(0, ioctl(self->fd, PIN_GUARD_DMA_SUBMIT, &s));
	ASSERT_EQ(0, wait_for(self->fd, s.id, &w));
	EXPECT_EQ((int64_t)s.len, w.result);
	EXPECT_EQ(0, p[0]);
	for (i = 0; i < s.len; i += 8) {
		memcpy(&word, p + 1 + i, 8);
		if (s.len - i < 8)	/* the last ends in the middle */
			word |= (PATTERN + i / 8) & ~0ULL << (s.len - i) * 8;
		ASSERT_EQ(PATTERN + i / 8, word);
	}
	EXPECT_EQ(0, p[1 + s.len]);
}

TEST_F(guard, source_may_be_the_zero_page)
{
	struct pin_guard_dma_wait w;
	char *p = map_pages(2 * PAGE, 0);

	ASSERT_EQ(0, transfer(self->fd, p, 2 * PAGE, variant->mode, PIN_GUARD_DMA_SUM, &w));
	EXPECT_EQ(0, w.sum);
}

TEST_F(guard, a_huge_page_is_one_run)
{
	struct pin_guard_dma_wait w;
	char *p = map_pages(2 * HUGE_SIZE, 0);
	char *huge = (char *)(((unsigned long)p + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	long before_kb;

	if (madvise(huge, HUGE_SIZE, MADV_HUGEPAGE))
		SKIP(return, "no transparent huge pages in this kernel");
	before_kb = number_in(SMAPS, "AnonHugePages");
	memset(huge, UNTOUCHED, HUGE_SIZE);
	if (number_in(SMAPS, "AnonHugePages") < before_kb + (long)(HUGE_SIZE >> 10))
		SKIP(return, "no transparent huge page to be had");
	ASSERT_EQ(0, transfer(self->fd, huge, HUGE_SIZE, variant->mode, PIN_GUARD_DMA_FILL, &w));
	EXPECT_EQ(HUGE_SIZE / PAGE, w.pages);
	EXPECT_EQ(1, w.runs);
	EXPECT_EQ(-1, first_wrong(huge, HUGE_SIZE, 0, HUGE_SIZE));
	ASSERT_EQ(0, transfer(self->fd, huge + 100, HUGE_SIZE - 200, variant->mode,
			      PIN_GUARD_DMA_FILL, &w));
	EXPECT_EQ(1, w.runs);
}

TEST_F(guard, a_hugetlb_page_is_one_run)
{
	struct pin_guard_dma_wait w;
	char *p = map_pages(HUGE_SIZE, MAP_HUGE);

	if (!p)
		SKIP(return, "no free huge page: see /proc/sys/vm/nr_hugepages");
	memset(p, UNTOUCHED, HUGE_SIZE);
	ASSERT_EQ(0, transfer(self->fd, p + 1, HUGE_SIZE - 2, variant->mode, PIN_GUARD_DMA_FILL,
			      &w));
	EXPECT_EQ(HUGE_SIZE / PAGE, w.pages);
	EXPECT_EQ(1, w.runs);
	EXPECT_EQ(-1, first_wrong(p, HUGE_SIZE, 1, HUGE_SIZE - 2));
}

TEST_F(guard, poll_tells_of_a_finished_request)
{
	struct pollfd pfd = { .fd = self->fd, .events = POLLIN };
	struct pin_guard_dma_wait w;
	char *p = map_pages(PAGE, 0);
	uint64_t id;

	EXPECT_EQ(0, poll(&pfd, 1, 0));
	ASSERT_EQ(0, submit(self->fd, p, PAGE, variant->mode, PIN_GUARD_DMA_FILL, SLOW_MS, &id));
	EXPECT_EQ(0, poll(&pfd, 1, 0));
	EXPECT_EQ(1, poll(&pfd, 1, 10000));
	EXPECT_EQ(POLLIN, pfd.revents);
	EXPECT_EQ(0, wait_for(self->fd, id, &w));
	EXPECT_EQ(0, poll(&pfd, 1, 0));
}

TEST_F(guard, a_held_request_goes_when_it_is_asked_for_or_closed)
{
	struct pollfd pfd = { .fd = self->fd, .events = POLLIN };
	char *p = map_pages(PAGE, 0), *other = map_pages(PAGE, 0);
	struct pin_guard_dma_wait w;
	uint64_t id;
	int fd;

	ASSERT_EQ(0, submit(self->fd, p, PAGE, variant->mode, PIN_GUARD_DMA_FILL,
			    PIN_GUARD_DMA_HELD, &id));
	EXPECT_EQ(0, poll(&pfd, 1, 2 * SLOW_MS));
	EXPECT_EQ(0, *(uint64_t *)p);
	EXPECT_LT(0, pins_held() - self->pins);
	EXPECT_EQ(0, wait_for(self->fd, id, &w));
	EXPECT_EQ((int64_t)PAGE, w.result);
	EXPECT_EQ(PATTERN, *(uint64_t *)p);

	fd = open(DMA_DEVICE, O_RDWR);
	ASSERT_EQ(0, submit(fd, other, PAGE, variant->mode, PIN_GUARD_DMA_FILL,
			    PIN_GUARD_DMA_HELD, &id));
	EXPECT_LT(0, pins_held() - self->pins);
	close(fd);
	EXPECT_EQ(0, pins_left(self->pins));
	EXPECT_EQ(PATTERN, *(uint64_t *)other);
}

static void ignore_signal(int __always_unused sig)
{
}

TEST_F(guard, a_signal_interrupts_wait)
{
	struct sigaction action = { .sa_handler = ignore_signal };
	struct pin_guard_dma_wait w = { 0 };
	char *p = map_pages(PAGE, 0);
	pid_t me = getpid(), pid;
	uint64_t id;

	sigaction(SIGUSR1, &action, NULL);
	ASSERT_EQ(0, submit(self->fd, p, PAGE, variant->mode, PIN_GUARD_DMA_FILL, 1500, &id));
	pid = fork();
	if (!pid) {
		usleep(300000);
		kill(me, SIGUSR1);
		_exit(0);
	}
	w.id = id;
	EXPECT_EQ(-1, ioctl(self->fd, PIN_GUARD_DMA_WAIT, &w));
	EXPECT_EQ(EINTR, errno);
	waitpid(pid, NULL, 0);
	EXPECT_EQ(0, wait_for(self->fd, id, &w));
	EXPECT_EQ((int64_t)PAGE, w.result);
	EXPECT_EQ(pattern_byte(0), (unsigned char)p[0]);
}

TEST_F(guard, wait_knows_only_its_own_requests)
{
	int other = open(DMA_DEVICE, O_RDWR);
	struct pin_guard_dma_wait w;
	char *p = map_pages(PAGE, 0);
	uint64_t id;

	EXPECT_EQ(ENOENT, wait_for(self->fd, 12345, &w));
	ASSERT_EQ(0, submit(self->fd, p, PAGE, variant->mode, PIN_GUARD_DMA_FILL, 0, &id));
	EXPECT_EQ(ENOENT, wait_for(other, id, &w));
	EXPECT_EQ(0, wait_for(self->fd, id, &w));
	EXPECT_EQ(ENOENT, wait_for(self->fd, id, &w));
	close(other);
}

TEST_F(guard, an_answer_that_cannot_be_given_is_kept)
{
	struct pin_guard_dma_wait w, *arg = (void *)map_pages(PAGE, 0);
	char *p = map_pages(PAGE, 0);
	uint64_t id;

	ASSERT_EQ(0, submit(self->fd, p, PAGE, variant->mode, PIN_GUARD_DMA_FILL, 0, &id));
	arg->id = id;
	mprotect(arg, PAGE, PROT_READ);
	EXPECT_EQ(-1, ioctl(self->fd, PIN_GUARD_DMA_WAIT, arg));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, wait_for(self->fd, id, &w));
	EXPECT_EQ((int64_t)PAGE, w.result);
}

TEST_F(guard, many_requests_at_once)
{
	struct pin_guard_dma_wait w;
	char *p = map_pages(64 * PAGE, 0);
	uint64_t id[64];
	int i;

	memset(p, UNTOUCHED, 64 * PAGE);
	/* Neighbours in one page: each pins it. */
	for (i = 0; i < 64; i++)
		ASSERT_EQ(0, submit(self->fd, p + i * 1024 + 8, 1000, variant->mode,
				    PIN_GUARD_DMA_FILL, 50, &id[i]));
	for (i = 63; i >= 0; i--) {
		ASSERT_EQ(0, wait_for(self->fd, id[i], &w));
		EXPECT_EQ(1000, w.result);
		EXPECT_EQ(-1, first_wrong(p + i * 1024, 1024, 8, 1000));
	}
}

TEST_F(guard, memory_gone_in_flight)
{
	struct pin_guard_dma_wait w;
	char *p = map_pages(16 * PAGE, 0);
	uint64_t id;

	ASSERT_EQ(0, submit(self->fd, p, 16 * PAGE, variant->mode, PIN_GUARD_DMA_FILL, SLOW_MS,
			    &id));
	munmap(p, 16 * PAGE);
	EXPECT_EQ(0, wait_for(self->fd, id, &w));
	EXPECT_EQ(16 * (int64_t)PAGE, w.result);
}

TEST_F(guard, close_with_requests_in_flight)
{
	char *p = map_pages(64 * PAGE, 0);
	uint64_t id;
	int i, fd = open(DMA_DEVICE, O_RDWR);

	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, submit(fd, p + i * 8 * PAGE, 8 * PAGE, variant->mode,
				    PIN_GUARD_DMA_FILL, SLOW_MS, &id));
	EXPECT_LT(0, pins_held() - self->pins);
	close(fd);
	EXPECT_EQ(0, pins_left(self->pins));
}

TEST_F(guard, kill_with_requests_in_flight)
{
	int status, i, ready[2];
	uint64_t id;
	char byte;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	if (!pid) {
		int fd = open(DMA_DEVICE, O_RDWR);
		char *p = map_pages(64 * PAGE, 0);
		struct pin_guard_dma_wait w;

		for (i = 0; i < 8; i++)
			if (submit(fd, p + i * 8 * PAGE, 8 * PAGE, variant->mode,
				   PIN_GUARD_DMA_FILL, SLOW_MS, &id))
				_exit(1);
		(void)!write(ready[1], "", 1);
		wait_for(fd, id, &w);
		pause();
	}
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(0, pins_left(self->pins));
}

/* As nobody, with @limit bytes of RLIMIT_MEMLOCK and the device open. */
static void become_limited(size_t limit)
{
	struct rlimit r = { .rlim_cur = limit, .rlim_max = limit };

	if (setrlimit(RLIMIT_MEMLOCK, &r) || setresuid(NOBODY, NOBODY, NOBODY))
		_exit(100);
}

TEST_F(device, longterm_pins_are_charged)
{
	int fd = self->fd, status, tries;
	pid_t pid = fork();

	if (!pid) {
		char *p = map_pages(1 << 20, 0);
		struct pin_guard_dma_wait w;
		uint64_t id, id2;

		become_limited(64 << 10);
		/* Only the long ones count. */
		if (transfer(fd, p, 1 << 20, PIN_GUARD_DMA_PIN, PIN_GUARD_DMA_FILL, &w))
			_exit(1);
		if (submit(fd, p, 1 << 20, PIN_GUARD_DMA_PIN_LONGTERM, PIN_GUARD_DMA_FILL, 0,
			   &id) != ENOMEM)
			_exit(2);
		if (submit(fd, p, 65 << 10, PIN_GUARD_DMA_PIN_LONGTERM, PIN_GUARD_DMA_FILL, 0,
			   &id) != ENOMEM)
			_exit(3);
		/* 64 KiB that begin inside a page are a page more. */
		if (submit(fd, p + 1, 64 << 10, PIN_GUARD_DMA_PIN_LONGTERM, PIN_GUARD_DMA_FILL, 0,
			   &id) != ENOMEM)
			_exit(4);
		/* From a page's start they are just the limit, and leave no room for another byte. */
		if (submit(fd, p, 64 << 10, PIN_GUARD_DMA_PIN_LONGTERM, PIN_GUARD_DMA_FILL, SLOW_MS,
			   &id))
			_exit(5);
		if (submit(fd, p + (64 << 10), 1, PIN_GUARD_DMA_PIN_LONGTERM, PIN_GUARD_DMA_FILL, 0,
			   &id2) != ENOMEM)
			_exit(6);
		if (wait_for(fd, id, &w) || w.result != 64 << 10)
			_exit(7);
		/* And the charge is given back, if not before the answer. */
		for (tries = 0; tries < 40; tries++) {
			if (!transfer(fd, p, 64 << 10, PIN_GUARD_DMA_PIN_LONGTERM,
				      PIN_GUARD_DMA_FILL, &w))
				break;
			usleep(50000);
		}
		if (tries == 40)
			_exit(8);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status) {
		TH_LOG("step %d of the limited child went wrong", WEXITSTATUS(status));
	}
}

static long huge_pages(const char *key)
{
	return number_in("/proc/meminfo", key);
}

static int set_huge_pages(long n)
{
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "w");

	if (!f)
		return -1;
	fprintf(f, "%ld\n", n);
	return fclose(f);
}

/* A pinned huge page needs another for the child: without one, fork must fail, not lose data. */
TEST_F(device, fork_with_the_hugetlb_pool_empty)
{
	static const unsigned int modes[] = { PIN_GUARD_DMA_WINDOW, PIN_GUARD_DMA_PIN };
	/*
	 * A free page may be reserved until the next boot. mremap() of a part of a private hugetlb
	 * mapping, as in the soak, makes the kernel forget what the rest has reserved
	 * (fixup_hugetlb_reservations() in mm/hugetlb.c, 7.2 and 7.3).
	 */
	long total = huge_pages("HugePages_Total"), reserved = huge_pages("HugePages_Rsvd");
	long pool = total - huge_pages("HugePages_Free") + reserved + 1;
	size_t i;

	if (total < 0 || reserved > total || set_huge_pages(pool) ||
	    huge_pages("HugePages_Total") != pool)
		SKIP(return, "cannot set the hugetlb pool to one free page");
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		char *p = map_pages(HUGE_SIZE, MAP_HUGE);
		struct pin_guard_dma_wait w;
		int fork_errno = 0;
		uint64_t id;
		pid_t pid;

		/* A process that is about to end may have the page, or a claim to it. */
		for (int tries = 0; !p && tries < 100; tries++) {
			usleep(100000);
			p = map_pages(HUGE_SIZE, MAP_HUGE);
		}
		EXPECT_NE(NULL, p);
		if (!p)
			break;
		memset(p, UNTOUCHED, HUGE_SIZE);
		EXPECT_EQ(0, submit(self->fd, p + 8, HUGE_SIZE - 16, modes[i], PIN_GUARD_DMA_FILL,
				    SLOW_MS, &id));
		pid = fork();
		if (!pid)
			_exit(0);
		if (pid < 0)
			fork_errno = errno;
		else
			waitpid(pid, NULL, 0);
		p[0] = UNTOUCHED;
		EXPECT_EQ(ENOMEM, fork_errno) {
			TH_LOG("mode %u: fork came with %s", modes[i], strerror(fork_errno));
		}
		EXPECT_EQ(0, wait_for(self->fd, id, &w));
		EXPECT_EQ(-1, first_wrong(p, HUGE_SIZE, 8, HUGE_SIZE - 16));
		munmap(p, HUGE_SIZE);
	}
	set_huge_pages(total);
}

/* A destination is dirtied when it is released, or what came after the last fsync() is lost. */
TEST_F(device, destination_is_dirtied)
{
	const char *dir = getenv("PIN_GUARD_DIR") ?: "/var/tmp";
	char name[PATH_MAX], *block = calloc(1, PAGE);
	struct pin_guard_dma_wait w;
	uint64_t id;
	int fd;
	char *p;

	snprintf(name, sizeof(name), "%s/guard.%d", dir, getpid());
	fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	unlink(name);
	if (fd < 0 || write(fd, block, PAGE) != PAGE || fsync(fd))
		SKIP(return, "%s: %s", dir, strerror(errno));
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	if (submit(self->fd, p, PAGE, PIN_GUARD_DMA_PIN, PIN_GUARD_DMA_FILL, SLOW_MS, &id))
		SKIP(return, "%s: no pin on a file here: %s", dir, strerror(errno));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(0, wait_for(self->fd, id, &w));
	munmap(p, PAGE);
	EXPECT_EQ(0, fsync(fd));
	/* Gone from memory, unless it is dirty for ever, as in tmpfs. */
	posix_fadvise(fd, 0, PAGE, POSIX_FADV_DONTNEED);
	EXPECT_EQ(PAGE, pread(fd, block, PAGE, 0));
	EXPECT_EQ(-1, first_wrong(block, PAGE, 0, PAGE));
	close(fd);
}

/* PinGuard::from_iter, through readv(2) and writev(2): the byte at file position p is p % 251. */
#define POSITION	1000003

/* Segments of a page that starts and ends in the middle, two that meet, an empty one, and a THP. */
static size_t segments(char *small, char *huge, struct iovec *iov)
{
	iov[0] = (struct iovec){ small + 100, 200 };
	iov[1] = (struct iovec){ small + 300, PAGE };
	iov[2] = (struct iovec){ small, 0 };
	iov[3] = (struct iovec){ small + 4 * PAGE - 1, PAGE + 2 };
	iov[4] = (struct iovec){ huge, HUGE_SIZE };
	return 200 + PAGE + PAGE + 2 + HUGE_SIZE;
}

TEST_F(device, readv_fills_each_segment_and_no_more)
{
	char *small = map_pages(8 * PAGE, 0), *huge = map_pages(2 * HUGE_SIZE, 0);
	size_t i, j, len, touched = 0, at = POSITION;
	struct iovec iov[5];

	huge = (char *)(((unsigned long)huge + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	madvise(huge, HUGE_SIZE, MADV_HUGEPAGE);
	memset(small, UNTOUCHED, 8 * PAGE);
	memset(huge, UNTOUCHED, HUGE_SIZE);
	len = segments(small, huge, iov);
	ASSERT_EQ((ssize_t)len, preadv(self->fd, iov, ARRAY_SIZE(iov), POSITION));
	for (i = 0; i < ARRAY_SIZE(iov); i++) {
		for (j = 0; j < iov[i].iov_len; j++, at++) {
			unsigned char came = ((unsigned char *)iov[i].iov_base)[j];

			ASSERT_EQ(at % 251, came) {
				TH_LOG("byte %zu of segment %zu", j, i);
			}
		}
	}
	for (i = 0; i < 8 * PAGE; i++) {
		for (j = 0; j < 4; j++)
			if (small + i >= (char *)iov[j].iov_base &&
			    small + i < (char *)iov[j].iov_base + iov[j].iov_len)
				break;
		touched += j == 4 && (unsigned char)small[i] != UNTOUCHED;
	}
	EXPECT_EQ(0, touched);

	/* What was read is what writev() finds, and a byte that is wrong it sees. */
	EXPECT_EQ((ssize_t)len, pwritev(self->fd, iov, ARRAY_SIZE(iov), POSITION));
	huge[HUGE_SIZE - 1] ^= 1;
	EXPECT_EQ(-1, pwritev(self->fd, iov, ARRAY_SIZE(iov), POSITION));
	EXPECT_EQ(EIO, errno);
}

TEST_F(device, iterators_refuse_what_addresses_do)
{
	char *p = map_pages(4 * PAGE, 0);
	struct iovec iov[] = { { p, PAGE }, { p + 2 * PAGE, PAGE } };

	memset(p, 0, 4 * PAGE);
	mprotect(p + 2 * PAGE, PAGE, PROT_READ);
	EXPECT_EQ(-1, preadv(self->fd, iov, 2, 0));
	EXPECT_EQ(EFAULT, errno);
	munmap(p + 2 * PAGE, PAGE);
	EXPECT_EQ(-1, pwritev(self->fd, iov, 2, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, pread(self->fd, p, 0, 0));
	EXPECT_EQ(0, pins_left(self->pins));
}

int main(int argc, char **argv)
{
	need_device();
	return test_harness_run(argc, argv);
}

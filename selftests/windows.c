// SPDX-License-Identifier: GPL-2.0
/*
 * Windows through /dev/pin_guard_dma: they follow their pages wherever these are moved, a fork pins
 * what is there and nothing else, and debugfs lists them.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "counters.h"
#include "hold.h"
#include "page.h"
#include "request.h"
#include "uffd.h"

#define BEFORE		'.'
#define LISTING		"/sys/kernel/debug/pin_guard/windows"

/*
 * Chains of moves: each has a request in flight to some pages, which are moved about; then this
 * process forks once, for all chains.
 */

#define PAGES		8	/* of a request */
#define PLACES		12	/* to move to; the first is home */
#define PLACE_PAGES	(2 * PAGES)
#define MAX_MOVES	10
#define RANDOM_CHAINS	40

enum how {
	NOT,
	REMAP,		/* to a place, with another length if that differs */
	LEAVE,		/* MREMAP_DONTUNMAP: what was left is written anew */
	HANDOVER,	/* UFFDIO_MOVE */
	DROP,		/* the pages are given back, and others come in their place */
};

struct move {
	enum how how;
	unsigned int first, pages;	/* of the request */
	unsigned int new_pages, place;
};

struct chain {
	const char *name;
	struct move moves[MAX_MOVES];
};

static const struct chain chains[] = {
	{ "not moved" },
	{ "moved as a whole", { { REMAP, 0, 8, 8, 1 } } },
	{ "moved there and back", { { REMAP, 0, 8, 8, 1 }, { REMAP, 0, 8, 8, 0 } } },
	{ "moved three times", { { REMAP, 0, 8, 8, 1 }, { REMAP, 0, 8, 8, 2 }, { REMAP, 0, 8, 8, 3 } } },
	{ "a part grows and moves on",
	  { { REMAP, 0, 8, 8, 1 }, { REMAP, 0, 1, 8, 2 }, { REMAP, 0, 1, 8, 3 } } },
	{ "all parts to places of their own",
	  { { REMAP, 0, 2, 2, 1 }, { REMAP, 2, 1, 1, 2 }, { REMAP, 3, 4, 4, 3 }, { REMAP, 7, 1, 1, 4 } } },
	{ "parts come home in another order",
	  { { REMAP, 0, 4, 4, 1 }, { REMAP, 4, 4, 4, 2 }, { REMAP, 4, 4, 4, 0 }, { REMAP, 0, 4, 4, 0 } } },
	{ "the middle is moved", { { REMAP, 3, 2, 2, 1 } } },
	{ "the middle grows, its middle moves",
	  { { REMAP, 2, 4, 10, 1 }, { REMAP, 3, 2, 2, 2 } } },
	{ "grown", { { REMAP, 0, 8, 12, 1 } } },
	{ "shrunk", { { REMAP, 0, 8, 3, 1 } } },
	{ "shrunk, then grown", { { REMAP, 0, 8, 3, 1 }, { REMAP, 0, 3, 9, 2 } } },
	{ "one lands on another", { { REMAP, 0, 2, 2, 1 }, { REMAP, 4, 2, 2, 1 } } },
	{ "what is left is used anew", { { LEAVE, 0, 8, 8, 1 }, { LEAVE, 0, 8, 8, 2 } } },
	{ "what is left moves back", { { LEAVE, 2, 4, 4, 1 }, { REMAP, 2, 4, 4, 0 } } },
	{ "a page is dropped", { { DROP, 3, 1, 1, 0 } } },
	{ "dropped, and the others moved", { { DROP, 3, 1, 1, 0 }, { REMAP, 4, 4, 6, 1 } } },
	{ "handed over", { { HANDOVER, 0, 8, 8, 1 } } },
	{ "a page is handed over", { { HANDOVER, 3, 1, 1, 1 } } },
	{ "handed over and back", { { HANDOVER, 2, 3, 3, 1 }, { HANDOVER, 2, 3, 3, 0 } } },
	{ "handed over, then moved", { { HANDOVER, 1, 4, 4, 1 }, { REMAP, 1, 4, 6, 2 } } },
	{ "moved, then handed over", { { REMAP, 0, 4, 6, 1 }, { HANDOVER, 1, 2, 2, 2 } } },
};

#define NR_CHAINS	(ARRAY_SIZE(chains) + RANDOM_CHAINS)

struct flight {
	const char *name;
	char steps[500];
	char *space;		/* PLACES of PLACE_PAGES */
	char *at[PAGES];	/* NULL: gone */
	uint64_t id;
	uint64_t rnd;
};

static unsigned int below(uint64_t *rnd, unsigned int n)
{
	*rnd ^= *rnd << 13;
	*rnd ^= *rnd >> 7;
	*rnd ^= *rnd << 17;
	return *rnd % n;
}

static char *place(const struct flight *f, const struct move *m)
{
	return f->space + (m->place ? m->place * PLACE_PAGES : m->first) * PAGE;
}

/* Nobody else's mapping may come to lie where pages were. */
static void reserve(char *at, size_t len)
{
	mmap(at, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}

static void gone(struct flight *f, char *start, char *end)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		if (f->at[i] >= start && f->at[i] < end)
			f->at[i] = NULL;
}

static void moved_to(struct flight *f, const struct move *m, unsigned int pages, char *to)
{
	unsigned int i;

	for (i = 0; i < pages; i++)
		f->at[m->first + i] = i < m->new_pages ? to + i * PAGE : NULL;
}

/* Returns 0 or an errno. */
static int hand_over(struct flight *f, const struct move *m, char *from, char *to)
{
	size_t len = m->pages * PAGE, moved = 0;
	int uffd = uffd_open(UFFD_FEATURE_MOVE), ret = 0;

	if (uffd < 0)
		return errno;
	/* It has not left: it was pinned. */
	if (to == from) {
		close(uffd);
		return 0;
	}
	gone(f, to, to + len);
	if (mmap(to, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
	    to || madvise(to, len, MADV_NOHUGEPAGE) ||
	    uffd_register(uffd, to, len, UFFDIO_REGISTER_MODE_MISSING) ||
	    uffd_move(uffd, to, from, len, &moved))
		ret = errno;
	moved_to(f, m, moved / PAGE, to);
	uffd_unregister(uffd, to, len);
	close(uffd);
	return ret;
}

/* Returns 0 or an errno, and then nothing has changed. */
static int take(struct flight *f, const struct move *m)
{
	char *from = f->at[m->first], *to = place(f, m);
	size_t len = m->pages * PAGE, new_len = m->new_pages * PAGE;
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	snprintf(f->steps + strlen(f->steps), sizeof(f->steps) - strlen(f->steps),
		 " %u:%u+%u->%u+%u", m->how, m->first, m->pages, m->place, m->new_pages);
	switch (m->how) {
	case NOT:
		break;
	case REMAP:
	case LEAVE:
		flags |= m->how == LEAVE ? MREMAP_DONTUNMAP : 0;
		if (mremap(from, len, new_len, flags, to) != to)
			return errno;
		gone(f, to, to + new_len);
		moved_to(f, m, m->pages, to);
		if (m->how == LEAVE)
			memset(from, BEFORE, len);
		else
			reserve(from, len);
		break;
	case HANDOVER:
		return hand_over(f, m, from, to);
	case DROP:
		if (madvise(from, len, MADV_DONTNEED))
			return errno;
		gone(f, from, from + len);
		memset(from, BEFORE, len);
		break;
	}
	return 0;
}

/* Some pages that are next to each other, to a place that they are not in. */
static struct move random_move(struct flight *f)
{
	struct move m = { .how = REMAP };
	unsigned int run, i;

	for (i = 0; i < 2 * PAGES; i++) {
		m.first = below(&f->rnd, PAGES);
		if (f->at[m.first])
			break;
	}
	if (!f->at[m.first])
		return (struct move){ NOT };
	for (run = 1; m.first + run < PAGES; run++)
		if (f->at[m.first + run] != f->at[m.first] + run * PAGE)
			break;
	m.pages = m.new_pages = 1 + below(&f->rnd, run);
	m.place = below(&f->rnd, PLACES);
	switch (below(&f->rnd, 10)) {
	case 0:
		m.how = LEAVE;
		break;
	case 1:
	case 2:
		m.how = HANDOVER;
		break;
	case 3:
		m.how = DROP;
		m.pages = 1;
		break;
	case 4:
	case 5:
		/* Only a place has room for more. */
		m.place = m.place ?: 1;
		m.new_pages = 1 + below(&f->rnd, PLACE_PAGES);
		break;
	}
	return m;
}

static void flight_map(struct flight *f, unsigned int number, uint64_t seed)
{
	unsigned int i;

	memset(f, 0, sizeof(*f));
	f->rnd = (seed + number + 1) * 0x9e3779b97f4a7c15ULL | 1;
	f->name = number < ARRAY_SIZE(chains) ? chains[number].name : "at random";
	f->space = map_pages(PLACES * PLACE_PAGES * PAGE, 0);
	if (!f->space)
		return;
	munmap(f->space + PAGES * PAGE, (PLACES * PLACE_PAGES - PAGES) * PAGE);
	reserve(f->space + PAGES * PAGE, (PLACES * PLACE_PAGES - PAGES) * PAGE);
	madvise(f->space, PAGES * PAGE, MADV_NOHUGEPAGE);
	memset(f->space, BEFORE, PAGES * PAGE);
	for (i = 0; i < PAGES; i++)
		f->at[i] = f->space + i * PAGE;
}

static int flight_move(struct flight *f, unsigned int number, bool pinned)
{
	unsigned int i, moves = 1 + below(&f->rnd, MAX_MOVES);
	int err;

	for (i = 0; number < ARRAY_SIZE(chains) && i < MAX_MOVES; i++) {
		/* The kernel refuses to hand over what is pinned. */
		if (!f->at[chains[number].moves[i].first])
			continue;
		err = take(f, &chains[number].moves[i]);
		if (err && !(err == EBUSY && pinned))
			return err;
	}
	for (i = 0; number >= ARRAY_SIZE(chains) && i < moves; i++) {
		struct move m = random_move(f);

		/* Not what overlaps, or needs more mappings at once than the kernel takes. */
		take(f, &m);
	}
	return 0;
}

/* Bytes that are not the request's, in the pages that are still there; and how many these are. */
static size_t flight_lost(const struct flight *f, unsigned int *pages)
{
	size_t lost = 0, w;
	unsigned int i;

	for (*pages = i = 0; i < PAGES; i++) {
		*pages += !!f->at[i];
		for (w = 0; f->at[i] && w < PAGE / 8; w++)
			if (((uint64_t *)f->at[i])[w] != PATTERN + i * (PAGE / 8) + w)
				lost += 8;
	}
	return lost;
}

/* In the child: bytes that have changed since the fork. */
static size_t flight_changed(const struct flight *f)
{
	size_t changed = 0, b;
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		for (b = 0; f->at[i] && b < PAGE; b++)
			changed += f->at[i][b] != BEFORE;
	return changed;
}

FIXTURE(moved) {
	int fd;
	struct flight *flights;
};

FIXTURE_VARIANT(moved) {
	unsigned int mode;
};

FIXTURE_VARIANT_ADD(moved, control) {
	.mode = PIN_GUARD_DMA_GET,
};

FIXTURE_VARIANT_ADD(moved, window) {
	.mode = PIN_GUARD_DMA_WINDOW,
};

FIXTURE_VARIANT_ADD(moved, pin) {
	.mode = PIN_GUARD_DMA_PIN,
};

FIXTURE_SETUP(moved)
{
	self->fd = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	self->flights = calloc(NR_CHAINS, sizeof(*self->flights));
}

FIXTURE_TEARDOWN(moved)
{
	close(self->fd);
	free(self->flights);
}

TEST_F_TIMEOUT(moved, pages_in_flight_meet_a_fork, 600)
{
	const char *seed_given = getenv("PIN_GUARD_SEED");
	uint64_t seed = seed_given ? strtoull(seed_given, NULL, 0) : (uint64_t)time(NULL);
	unsigned int i, page, pages;
	bool control = variant->mode == PIN_GUARD_DMA_GET;
	struct pin_guard_dma_wait w;
	int line[2], status;
	size_t lost;
	pid_t child;

	TH_LOG("seed %lu", (unsigned long)seed);
	for (i = 0; i < NR_CHAINS; i++) {
		flight_map(&self->flights[i], i, seed);
		ASSERT_NE(NULL, self->flights[i].space);
	}
	for (i = 0; i < NR_CHAINS; i++) {
		struct pin_guard_dma_submit s = {
			.addr = (unsigned long)self->flights[i].space,
			.len = PAGES * PAGE, .pattern = PATTERN, .mode = variant->mode,
			.flags = PIN_GUARD_DMA_COUNT, .delay_ms = PIN_GUARD_DMA_HELD,
		};

		ASSERT_EQ(0, ioctl(self->fd, PIN_GUARD_DMA_SUBMIT, &s));
		self->flights[i].id = s.id;
	}
	for (i = 0; i < NR_CHAINS; i++) {
		EXPECT_EQ(0, flight_move(&self->flights[i], i, variant->mode == PIN_GUARD_DMA_PIN)) {
			TH_LOG("%s:%s", self->flights[i].name, self->flights[i].steps);
		}
	}
	ASSERT_EQ(0, pipe(line));
	child = fork();
	if (!child) {
		char byte;

		close(line[1]);
		(void)!read(line[0], &byte, 1);
		for (lost = i = 0; i < NR_CHAINS; i++)
			lost += flight_changed(&self->flights[i]);
		_exit(!!lost);
	}
	ASSERT_LT(0, child);
	for (i = 0; i < NR_CHAINS; i++)
		for (page = 0; page < PAGES; page++)
			if (self->flights[i].at[page])
				self->flights[i].at[page][100] = '!';
	for (i = 0; i < NR_CHAINS; i++)
		ASSERT_EQ(0, wait_for(self->fd, self->flights[i].id, &w));
	close(line[1]);
	close(line[0]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	for (i = 0; i < NR_CHAINS; i++) {
		lost = flight_lost(&self->flights[i], &pages);
		EXPECT_EQ(control && pages, !!lost) {
			TH_LOG("%s:%s: lost %zu bytes of %u pages", self->flights[i].name,
			       self->flights[i].steps, lost, pages);
		}
	}
	EXPECT_TRUE(control || !status) {
		TH_LOG("the memory of the child changed after the fork");
	}
}

/*
 * What a fork pins
 */

FIXTURE(pieces) {
	struct hold hold;
};

FIXTURE_VARIANT(pieces) {
	size_t gib;
};

FIXTURE_VARIANT_ADD(pieces, a_gigabyte_apart) {
	.gib = 1,
};

FIXTURE_VARIANT_ADD(pieces, half_a_terabyte_apart) {
	.gib = 512,
};

FIXTURE_SETUP(pieces)
{
	ASSERT_TRUE(hold_open(&self->hold));
}

FIXTURE_TEARDOWN(pieces)
{
	hold_end(&self->hold);
}

TEST_F_TIMEOUT(pieces, a_fork_pins_them_and_not_what_is_between, 600)
{
	size_t len = variant->gib << 30;
	char *space = mmap(NULL, len + 2 * PAGE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *low = space, *between = space + PAGE, *high = space + PAGE + len;
	char *p = map_pages(2 * PAGE, 0);
	long pinned, tables, resident;
	int err = 0;

	ASSERT_NE(MAP_FAILED, space);
	ASSERT_EQ(between, mmap(between, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
				MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
	madvise(between, len, MADV_NOHUGEPAGE);
	between[0] = 1;
	madvise(p, 2 * PAGE, MADV_NOHUGEPAGE);
	memset(p, BEFORE, 2 * PAGE);

	ASSERT_EQ(0, hold_submit(&self->hold, p, 2 * PAGE, PIN_GUARD_DMA_WINDOW));
	ASSERT_EQ(low, mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, low));
	ASSERT_EQ(high, mremap(p + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, high));
	pinned = counter("pages_precopied");
	tables = number_in("/proc/self/status", "VmPTE");
	resident = number_in("/proc/self/status", "VmRSS");
	fork_ms(&err);
	EXPECT_EQ(0, err) {
		TH_LOG("fork: %s", strerror(err));
	}
	EXPECT_EQ(2, counter("pages_precopied") - pinned);
	/* A page of page tables for what else a fork may touch. */
	EXPECT_GE(tables + 8, number_in("/proc/self/status", "VmPTE"));
	EXPECT_GE(resident + 1024, number_in("/proc/self/status", "VmRSS"));
}

FIXTURE(absent) {
	struct hold hold;
};

FIXTURE_VARIANT(absent) {
	bool file;
};

FIXTURE_VARIANT_ADD(absent, anonymous) {
	.file = false,
};

FIXTURE_VARIANT_ADD(absent, of_a_file) {
	.file = true,
};

FIXTURE_SETUP(absent)
{
	ASSERT_TRUE(hold_open(&self->hold));
}

FIXTURE_TEARDOWN(absent)
{
	hold_end(&self->hold);
}

#define ABSENT_LEN	(64UL << 20)
#define ROUNDS		3

TEST_F_TIMEOUT(absent, pages_are_not_mapped_by_a_fork, 600)
{
	unsigned int modes[] = { PIN_GUARD_DMA_GET, PIN_GUARD_DMA_WINDOW }, i;
	double ms[2][ROUNDS], without, with;
	int err, fd = -1;
	char *p;

	if (variant->file) {
		fd = memfd_create("windows", 0);
		ASSERT_EQ(0, ftruncate(fd, ABSENT_LEN));
	}
	p = mmap(NULL, ABSENT_LEN, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	madvise(p, ABSENT_LEN, MADV_NOHUGEPAGE);
	for (i = 0; i < 2 * ROUNDS; i++) {
		long pinned, tables, more;

		ASSERT_EQ(0, hold_submit(&self->hold, p, ABSENT_LEN, modes[i % 2]));
		ASSERT_EQ(0, madvise(p, ABSENT_LEN, MADV_DONTNEED));
		pinned = counter("pages_precopied");
		tables = number_in("/proc/self/status", "VmPTE");
		ms[i % 2][i / 2] = fork_ms(&err);
		more = number_in("/proc/self/status", "VmPTE") - tables;
		pinned = counter("pages_precopied") - pinned;
		hold_end(&self->hold);
		EXPECT_EQ(0, err);
		EXPECT_EQ(0, pinned);
		EXPECT_GE(8, more) {
			TH_LOG("page tables of %ld kB before", tables);
		}
	}
	without = median(ms[0], ROUNDS);
	with = median(ms[1], ROUNDS);
	TH_LOG("fork takes %.2f ms without a window, %.2f ms with it", without, with);
	EXPECT_GE(3 * without + 1, with);
}

FIXTURE(windows) {
	struct hold hold;
};

FIXTURE_SETUP(windows)
{
	ASSERT_TRUE(hold_open(&self->hold));
}

FIXTURE_TEARDOWN(windows)
{
	hold_end(&self->hold);
}

/* The fork must not fault it in: nobody would answer, and a kernel with DEBUG_VM warns. */
TEST_F_TIMEOUT(windows, a_page_that_userfaultfd_misses_meets_a_fork, 120)
{
	char *p = map_pages(3 * PAGE, 0);
	int uffd, err;

	madvise(p, 3 * PAGE, MADV_NOHUGEPAGE);
	memset(p, BEFORE, 3 * PAGE);
	ASSERT_EQ(0, hold_submit(&self->hold, p, 3 * PAGE, PIN_GUARD_DMA_WINDOW));
	ASSERT_EQ(0, madvise(p + PAGE, PAGE, MADV_DONTNEED));
	uffd = uffd_open(0);
	if (uffd < 0 || uffd_register(uffd, p + PAGE, PAGE, UFFDIO_REGISTER_MODE_MISSING))
		SKIP(return, "userfaultfd: %s", strerror(errno));
	fork_ms(&err);
	EXPECT_EQ(0, err);
	close(uffd);
	/* The neighbours are as protected as ever. */
	p[100] = p[2 * PAGE + 100] = '!';
	hold_end(&self->hold);
	EXPECT_EQ(PATTERN, *(uint64_t *)p);
	EXPECT_EQ(PATTERN, *(uint64_t *)(p + 2 * PAGE));
}

/* Where the table that a window's pages were in is gone, with the lock of such a table. */
TEST_F_TIMEOUT(windows, a_table_that_is_gone_meets_a_fork, 120)
{
	size_t reach = PAGE / sizeof(uint64_t) * HUGE_SIZE;	/* of a table of huge pages */
	size_t len = 2 * HUGE_SIZE;
	char *space = mmap(NULL, 4 * reach, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGE, err, i;
	char *p;

	ASSERT_NE(MAP_FAILED, space);
	munmap(space, 4 * reach);
	/* The last page of a table, and the first one of the next, with nothing else in either. */
	p = (char *)(((unsigned long)space + 2 * reach) & -reach) - HUGE_SIZE;
	for (i = 0; i < 2; i++) {
		if (mmap(p, len, PROT_READ | PROT_WRITE, flags, -1, 0) != p)
			SKIP(return, "huge pages: %s", strerror(errno));
		memset(p, BEFORE, PAGE);
		if (i == 0) {
			ASSERT_EQ(0, hold_submit(&self->hold, p + HUGE_SIZE, PAGE,
						 PIN_GUARD_DMA_WINDOW));
			ASSERT_EQ(0, munmap(p, len));
		}
	}
	fork_ms(&err);
	EXPECT_EQ(0, err);
	EXPECT_EQ(BEFORE, p[0]);
	hold_end(&self->hold);
	munmap(p, len);
}

/*
 * A window follows to so many places and no further: what cannot be followed is not moved.
 */
#define PIECES	2048	/* rust/window/follow.rs */

TEST_F_TIMEOUT(windows, a_page_that_moves_too_often_stays, 600)
{
	char *space = mmap(NULL, 2 * PIECES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = map_pages(PAGE, 0);
	unsigned int moves = 0;
	int err, fork_err;

	ASSERT_NE(MAP_FAILED, space);
	madvise(at, PAGE, MADV_NOHUGEPAGE);
	memset(at, BEFORE, PAGE);
	ASSERT_EQ(0, hold_submit(&self->hold, at, PAGE, PIN_GUARD_DMA_WINDOW));
	for (; moves < 2 * PIECES; moves++) {
		char *to = space + moves * PAGE;

		if (mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
			break;
		at = to;
	}
	err = errno;
	fork_ms(&fork_err);
	EXPECT_EQ(0, fork_err);
	at[100] = '!';
	hold_end(&self->hold);
	EXPECT_EQ(ENOMEM, err);
	EXPECT_LE(PIECES, moves);
	EXPECT_GE(PIECES + 1, moves);
	EXPECT_EQ(PATTERN, *(uint64_t *)at);
}

/*
 * debugfs
 */

#define FEW		2000
#define MANY		20000

static atomic_bool stop;

/* Windows that come and go, of this process and so among those that stay. */
static void *churn(void *arg)
{
	int fd = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	struct pin_guard_dma_wait w;
	unsigned int i;
	char *p = arg;
	uint64_t id;

	for (i = 0; !atomic_load(&stop); i++) {
		if (!submit(fd, p + i % PAGE, 1, PIN_GUARD_DMA_WINDOW, PIN_GUARD_DMA_FILL, i % 4, &id))
			wait_for(fd, id, &w);
	}
	close(fd);
	return NULL;
}

/*
 * Reads the list in pieces of @size, and counts for each of the @nr bytes at @p the windows that
 * begin there. Returns the lines, or -1.
 */
static long list(char *p, unsigned int nr, unsigned char *seen, size_t size)
{
	char *text = NULL, *line, *save;
	size_t len = 0, room = 0;
	unsigned long start;
	long lines = 0;
	int fd = open(LISTING, O_RDONLY | O_CLOEXEC), pid;
	ssize_t n;

	if (fd < 0)
		return -1;
	do {
		if (room < len + size + 1)
			text = realloc(text, room = 2 * (len + size) + 1);
		n = read(fd, text + len, size);
		len += n > 0 ? n : 0;
	} while (n > 0);
	close(fd);
	text[len] = 0;
	memset(seen, 0, nr);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		lines++;
		if (sscanf(line, "%d %*s %lx-", &pid, &start) == 2 && pid == getpid() &&
		    start >= (unsigned long)p && start < (unsigned long)p + nr)
			seen[start - (unsigned long)p]++;
	}
	free(text);
	return n < 0 ? -1 : lines;
}

TEST_F_TIMEOUT(windows, that_stay_open_are_listed_once, 1800)
{
	static const size_t sizes[] = { 65536, 4096, 333 };
	char *p = map_pages((MANY / PAGE + 1) * PAGE, 0), *other = map_pages(PAGE, 0);
	unsigned char *seen[ARRAY_SIZE(sizes)];
	long lines[ARRAY_SIZE(sizes)];
	unsigned int i, j, wrong;
	pthread_t thread[2];

	memset(p, BEFORE, MANY);
	memset(other, BEFORE, PAGE);
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		seen[i] = malloc(MANY);
	for (i = 0; i < MANY; i++)
		ASSERT_EQ(0, hold_submit(&self->hold, p + i, 1, PIN_GUARD_DMA_WINDOW));
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, churn, other));
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		lines[i] = list(p, MANY, seen[i], sizes[i]);
	atomic_store(&stop, true);
	for (j = 0; j < ARRAY_SIZE(thread); j++)
		pthread_join(thread[j], NULL);
	hold_end(&self->hold);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		EXPECT_LT(MANY, lines[i]);
		for (wrong = j = 0; j < MANY; j++) {
			if (seen[i][j] != 1 && !wrong++)
				TH_LOG("read by %zu bytes: window %u is listed %u times", sizes[i],
				       j, seen[i][j]);
		}
		EXPECT_EQ(0, wrong);
		free(seen[i]);
	}
}

TEST_F_TIMEOUT(windows, cost_the_same_to_list_whatever_their_number, 1800)
{
	static const unsigned int numbers[] = { FEW, MANY };
	char *p = map_pages((MANY / PAGE + 1) * PAGE, 0);
	unsigned char *seen = malloc(MANY);
	unsigned int i, n, open = 0;
	double ms[2][5], each[2];
	long lines[2];

	memset(p, BEFORE, MANY);
	for (n = 0; n < ARRAY_SIZE(numbers); n++) {
		for (; open < numbers[n]; open++)
			ASSERT_EQ(0, hold_submit(&self->hold, p + open, 1, PIN_GUARD_DMA_WINDOW));
		for (i = 0; i < ARRAY_SIZE(ms[n]); i++) {
			double start = cpu_ms();

			lines[n] = list(p, MANY, seen, 65536);
			ms[n][i] = cpu_ms() - start;
		}
	}
	hold_end(&self->hold);
	for (n = 0; n < ARRAY_SIZE(numbers); n++) {
		EXPECT_LT(numbers[n], lines[n]);
		each[n] = median(ms[n], ARRAY_SIZE(ms[n])) / numbers[n];
	}
	TH_LOG("%.2f us each of %u, %.2f us each of %u", each[0] * 1e3, FEW, each[1] * 1e3, MANY);
	EXPECT_GE(4 * each[0], each[1]);
	free(seen);
}

int main(int argc, char **argv)
{
	need_device();
	return test_harness_run(argc, argv);
}

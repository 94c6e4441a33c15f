// SPDX-License-Identifier: GPL-2.0
/* The submitters: areas of memory, stamps, and the check of every byte. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pin_guard_dma.h"
#include "soak.h"

#define MAX_PIECES	3
#define MAX_STEPS_TAKEN	3
#define LONGEST		(2UL << 20)
#define NEAR		(256UL << 10)
#define WRITE_ROOM	(4UL << 20)	/* a piece's part of the file that is written */

static const struct area_kind area_kinds[] = {
	{ "anon" },
	{ "thp", .huge = true },
	{ "hugetlb", .hugetlb = true },
	{ "file", .file = true },
	{ "shm", .file = true, .shared = true },
};

struct piece {
	struct io *io;
	struct target target;
	struct memory mem;
	struct iovec whole;
	char *start;
	size_t len;
	unsigned long serial;		/* of what is read or written */
	char *gone, *gone_end;		/* dropped while in flight */
};

struct round {
	struct area *area;
	struct piece piece[MAX_PIECES];
	unsigned int pieces;
	unsigned int margin_serial;
	bool looked_up;			/* once submitted */
	unsigned long before[NR_EVENTS];
	char steps[64];			/* what the submitter itself did */
};

struct self {
	unsigned int number;
	uint64_t rnd;
	int write_fd, verify_fd;
	char *verify;			/* shared memory: no fork changes it */
	struct io *io[MAX_PIECES];	/* of every kind */
	unsigned long serial;
};

/* Areas */

bool area_map(struct area *a, size_t offset, size_t len)
{
	int flags = MAP_FIXED | (a->kind->shared ? MAP_SHARED : MAP_PRIVATE);
	char *at = a->base + offset;

	if (!a->kind->file)
		flags |= MAP_ANONYMOUS;
	if (a->kind->hugetlb)
		flags |= MAP_HUGE;
	if (mmap(at, len, PROT_READ | PROT_WRITE, flags, a->fd, a->kind->file ? offset : 0) != at)
		return false;
	if (!a->kind->hugetlb)
		madvise(at, len, a->kind->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return true;
}

static bool area_make(struct area *a, const struct area_kind *kind)
{
	size_t size = 2 * AREA_SIZE + HUGE_SIZE;
	char *p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	a->kind = kind;
	a->fd = -1;
	a->base = (char *)(((unsigned long)p + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	a->elsewhere = a->base + AREA_SIZE;
	a->start = a->end = a->base;
	pthread_mutex_init(&a->lock, NULL);
	if (kind->file) {
		a->fd = memfd_create("soak", MFD_CLOEXEC);
		if (a->fd < 0 || ftruncate(a->fd, AREA_SIZE))
			ksft_exit_fail_msg("memfd: %s\n", strerror(errno));
	}
	if (p != MAP_FAILED && area_map(a, 0, AREA_SIZE))
		return true;
	if (!kind->hugetlb)
		ksft_exit_fail_msg("mmap: %s\n", strerror(errno));
	munmap(p, size);
	return false;
}

bool area_protect_rw(char *start, size_t len)
{
	if (soak.rwp_fd < 0 ||
	    uffd_register(soak.rwp_fd, start, len, UFFDIO_REGISTER_MODE_RWP))
		return false;
	if (uffd_rw_protect(soak.rwp_fd, start, len, true))
		ksft_exit_fail_msg("UFFDIO_RWPROTECT: %s\n", strerror(errno));
	event(RWPS);
	return true;
}

void area_unprotect_rw(char *start, size_t len)
{
	if (uffd_unregister(soak.rwp_fd, start, len))
		ksft_exit_fail_msg("UFFDIO_UNREGISTER: %s\n", strerror(errno));
}

void areas_make(void)
{
	unsigned int i, k;

	soak.area = calloc(soak.submitters * ARRAY_SIZE(area_kinds), sizeof(*soak.area));
	for (i = 0; i < soak.submitters; i++)
		for (k = 0; k < ARRAY_SIZE(area_kinds); k++)
			if (area_make(&soak.area[soak.areas], &area_kinds[k]))
				soak.areas++;
			else if (!i)
				ksft_print_msg("no huge pages: see /proc/sys/vm/nr_hugepages\n");
}

/* Stamps */

static unsigned char stale_byte(const char *at, unsigned int serial)
{
	return stamp(STAMP_MEMORY, serial, (unsigned long)at) >> (unsigned long)at % 8 * 8;
}

static uint64_t expected_word(const struct piece *p, size_t i)
{
	if (p->io->kind->dma)
		return stamp(STAMP_DMA, p->serial, i);
	return stamp(p->io->write ? STAMP_WRITE : STAMP_FILE, p->serial, p->io->offset + i);
}

static unsigned char expected_byte(const struct piece *p, size_t i)
{
	return expected_word(p, i & ~7UL) >> i % 8 * 8;
}

static bool is_gone(const struct piece *p, const char *at)
{
	return p->gone <= at && at < p->gone_end;
}

static void fill(struct round *r)
{
	struct area *a = r->area;
	unsigned int n;
	char *at;
	size_t i;

	a->serial++;
	r->margin_serial = a->serial;
	for (at = a->start; at < a->end; at += 8)
		*(uint64_t *)at = stamp(STAMP_MEMORY, a->serial, (unsigned long)at);
	for (n = 0; n < r->pieces; n++) {
		const struct piece *p = &r->piece[n];

		for (i = 0; p->io->write && i < p->len; i++)
			p->start[i] = expected_byte(p, i);
	}
}

/* Calls @f for the pages' bytes that are in no piece. */
static void margins(struct round *r, void (*f)(struct round *r, char *start, char *end))
{
	char *at = r->area->start;
	unsigned int n;

	for (n = 0; n < r->pieces; n++) {
		f(r, at, r->piece[n].start);
		at = r->piece[n].start + r->piece[n].len;
	}
	f(r, at, r->area->end);
}

static void margin_write(struct round *r, char *start, char *end)
{
	for (; start < end; start++)
		*start = stale_byte(start, r->margin_serial);
}

/* The check */

static void describe(char *text, size_t size, uint64_t came, uint64_t expected, uint64_t stale)
{
	static const char * const owners[] = {
		[STAMP_MEMORY] = "memory before an I/O", [STAMP_CHILD] = "a child's write",
		[STAMP_DMA] = "request", [STAMP_WRITE] = "a write", [STAMP_FILE] = "file",
	};
	unsigned int kind = came >> 60, serial = came >> 44 & SERIAL_MASK, i;
	unsigned long place = (came & PLACE_MASK) << 3;
	const char *class = "WRONG PAGE";

	if (came == stale) {
		snprintf(text, size, "STALE: as before the I/O");
		return;
	}
	if (!came) {
		snprintf(text, size, "ZERO");
		return;
	}
	for (i = 0; i < 64; i += 8)
		if ((came ^ expected) >> i & 0xff && (came ^ stale) >> i & 0xff)
			break;
	if (i == 64) {
		snprintf(text, size, "TORN: bytes of before and after the I/O");
		return;
	}
	if (kind == STAMP_CHILD || (kind == STAMP_FILE && serial == FILE_OF_CHILD))
		class = "CHILD";
	else if (kind == stale >> 60 && place == (stale & PLACE_MASK) << 3)
		class = "STALE, older than the round";
	else if (kind >= ARRAY_SIZE(owners) || !owners[kind])
		class = "FOREIGN";
	snprintf(text, size, "%s: %s %u, place %#lx", class,
		 kind < ARRAY_SIZE(owners) && owners[kind] ? owners[kind] : "?", serial, place);
}

static void say_wrong(const struct round *r, const struct piece *p, const char *what, size_t at,
		      size_t wrong, uint64_t expected, uint64_t came, uint64_t stale)
{
	char class[120], others[300] = "";
	const char *start = p->start;
	unsigned int i;

	describe(class, sizeof(class), came, expected, stale);
	for (i = FIRST_DISTURBANCE; i < NR_EVENTS; i++) {
		unsigned long n = atomic_load(&soak.count[i]) - r->before[i];
		size_t used = strlen(others);

		if (n)
			snprintf(others + used, sizeof(others) - used, " %s=%lu", event_names[i], n);
	}
	report_loss("%s: %s of %zu bytes by %s to %s at %p (%#lx in the page), file offset %#lx: %zu bytes wrong, the first at %#zx: expected %016lx, came %016lx: %s; itself:%s; meanwhile:%s",
		    what, p->io->write ? "write" : "read", p->len, p->io->kind->name,
		    r->area->kind->name, start, (unsigned long)start % PAGE, (long)p->io->offset,
		    wrong, at, expected, came, class, r->steps[0] ? r->steps : " nothing", others);
}

/* What came to @data for the piece; for a write that is what the file has now. */
static void check_piece(const struct round *r, const struct piece *p, const char *data)
{
	size_t i, k, first = 0, wrong = 0;
	uint64_t came = 0, expected = 0, stale = 0;

	for (i = 0; i < p->len; i++) {
		if (i % 8 == 0 && i + 8 <= p->len) {
			uint64_t word;

			memcpy(&word, data + i, 8);
			if (word == expected_word(p, i)) {
				i += 7;
				continue;
			}
		}
		if (data[i] == (char)expected_byte(p, i) ||
		    (!data[i] && is_gone(p, data + i)))
			continue;
		if (!wrong++)
			first = i;
	}
	if (!wrong)
		return;
	i = first & ~7UL;
	for (k = 0; k < 8 && i + k < p->len; k++) {
		came |= (uint64_t)(unsigned char)data[i + k] << k * 8;
		expected |= (uint64_t)expected_byte(p, i + k) << k * 8;
		stale |= (uint64_t)stale_byte(p->start + i + k, r->area->serial) << k * 8;
	}
	say_wrong(r, p, p->io->write && data != p->start ? "file" : "memory", first, wrong, expected,
		  came, stale);
}

static void margin_check(struct round *r, char *start, char *end)
{
	const struct piece *p = &r->piece[0];
	size_t wrong = 0;
	char *at, *first = NULL;

	for (at = start; at < end; at++)
		if (*at != (char)stale_byte(at, r->margin_serial) && !wrong++)
			first = at;
	if (wrong) {
		first = (char *)((unsigned long)first & ~7UL);
		say_wrong(r, p, "beside the", first - p->start, wrong,
			  stamp(STAMP_MEMORY, r->margin_serial, (unsigned long)first),
			  *(uint64_t *)first,
			  stamp(STAMP_MEMORY, r->area->serial, (unsigned long)first));
	}
}

static void check(struct self *s, struct round *r)
{
	unsigned int n;

	for (n = 0; n < r->pieces; n++) {
		struct piece *p = &r->piece[n];

		/*
		 * The completion of an io_uring is a task work that looks like a signal. Ceph waits
		 * for capabilities until a signal comes, and aio_rw_done() makes EINTR of that.
		 */
		if (p->io->result == -EINTR && !strncmp(p->io->kind->name, "libaio", strlen("libaio"))) {
			event(INTERRUPTED);
			continue;
		}
		if (p->io->result != (long)p->len) {
			report_loss("%s of %zu bytes by %s to %s: came %ld (%s); itself:%s",
				    p->io->write ? "write" : "read", p->len, p->io->kind->name,
				    r->area->kind->name, p->io->result,
				    p->io->result < 0 ? strerror(-p->io->result) : "short",
				    r->steps);
			continue;
		}
		check_piece(r, p, p->start);
		if (p->io->write) {
			if (pread(s->verify_fd, s->verify, p->len, p->io->offset) != (ssize_t)p->len)
				ksft_exit_fail_msg("read of what was written: %s\n",
						   strerror(errno));
			check_piece(r, p, s->verify);
		}
		event(p->io->write ? WRITES : READS);
		atomic_fetch_add(&soak.count[BYTES], p->len);
	}
	margins(r, margin_check);
}

/* What the submitter does to its own memory while its I/O is in flight */

/* Some units of the span, or of what is inside [start, end). */
static bool pick(struct self *s, const struct area *a, char **start, char **end)
{
	size_t unit = area_unit(a), units;
	unsigned long first, last;

	/* The span may be less than a unit: then all of that. */
	first = (*start - a->base) / unit;
	last = (*end - a->base + unit - 1) / unit;
	units = last - first;
	if (!units)
		return false;
	first += random_below(&s->rnd, units);
	*start = a->base + first * unit;
	*end = *start + (1 + random_below(&s->rnd, last - first)) * unit;
	return true;
}

static void step_touch(struct self *s, struct round *r)
{
	r->margin_serial++;
	margins(r, margin_write);
	touch(r->area->start, r->area->end, random_below(&s->rnd, 2) ? &s->rnd : NULL);
}

static void step_fork(struct self *s, struct round *r)
{
	fork_once();
	touch(r->area->start, r->area->end, &s->rnd);
}

static void step_protect(struct self *s, struct round *r)
{
	char *start = r->area->start, *end = r->area->end;

	pick(s, r->area, &start, &end);
	if (mprotect(start, end - start, random_below(&s->rnd, 2) ? PROT_READ : PROT_NONE))
		return;
	if (random_below(&s->rnd, 2))
		fork_once();
	else
		nap(random_below(&s->rnd, 10000));
	if (mprotect(start, end - start, PROT_READ | PROT_WRITE))
		ksft_exit_fail_msg("mprotect: %s\n", strerror(errno));
	event(MPROTECTS);
}

static void step_protect_rw(struct self *s, struct round *r)
{
	char *start = r->area->start, *end = r->area->end;

	pick(s, r->area, &start, &end);
	if (!area_protect_rw(start, end - start))
		return;
	if (random_below(&s->rnd, 2))
		fork_once();
	else
		nap(random_below(&s->rnd, 10000));
	if (random_below(&s->rnd, 2))
		touch(start, end, &s->rnd);
	area_unprotect_rw(start, end - start);
}

/* Away, perhaps on, and back: at once or in two parts. */
static void step_move(struct self *s, struct round *r)
{
	struct area *a = r->area;
	char *start = a->start, *end = a->end, *to, *middle;
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	pick(s, a, &start, &end);
	to = a->elsewhere + (start - a->base);
	/* Not if what is there are more mappings than one. */
	if (mremap(start, end - start, end - start, flags, to) != to)
		return;
	if (random_below(&s->rnd, 2))
		fork_once();
	touch(to, to + (end - start), NULL);
	nap(random_below(&s->rnd, 5000));
	touch(to, to + (end - start), NULL);
	middle = start + random_below(&s->rnd, (end - start) / area_unit(a)) * area_unit(a);
	if ((middle > start &&
	     mremap(to, middle - start, middle - start, flags, start) != start) ||
	    mremap(to + (middle - start), end - middle, end - middle, flags, middle) != middle)
		ksft_exit_fail_msg("mremap back: %s\n", strerror(errno));
	event(MREMAPS);
}

/*
 * Away without mremap(), as far as the kernel does it: not what is pinned, or shared with a child
 * (EBUSY), and not at all (EINVAL) what are more mappings than one.
 */
static void step_hand_over(struct self *s, struct round *r)
{
	struct area *a = r->area;
	char *start = a->start, *end = a->end, *to;
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	size_t len, moved;

	if (soak.move_fd < 0 || a->kind->file || a->kind->hugetlb)
		return;
	pick(s, a, &start, &end);
	len = end - start;
	to = a->elsewhere + (start - a->base);
	if (!area_map(a, to - a->base, len) ||
	    uffd_register(soak.move_fd, to, len, UFFDIO_REGISTER_MODE_MISSING))
		ksft_exit_fail_msg("a place for UFFDIO_MOVE: %s\n", strerror(errno));
	if (uffd_move(soak.move_fd, to, start, len, &moved) && errno != EBUSY && errno != ENOENT &&
	    errno != EINVAL)
		ksft_exit_fail_msg("UFFDIO_MOVE: %s\n", strerror(errno));
	if (uffd_unregister(soak.move_fd, to, len))
		ksft_exit_fail_msg("UFFDIO_UNREGISTER: %s\n", strerror(errno));
	if (moved) {
		if (random_below(&s->rnd, 2))
			fork_once();
		touch(to, to + moved, NULL);
		if (mremap(to, moved, moved, flags, start) != start)
			ksft_exit_fail_msg("mremap back: %s\n", strerror(errno));
		event(HANDOVERS);
	}
	if (moved < len)
		munmap(to + moved, len - moved);
}

/* Pages that are wholly inside one read. */
static void step_drop(struct self *s, struct round *r)
{
	struct piece *p = &r->piece[random_below(&s->rnd, r->pieces)];
	struct area *a = r->area;
	size_t unit = area_unit(a);
	char *start, *end;

	start = a->base + (p->start - a->base + unit - 1) / unit * unit;
	end = a->base + (p->start + p->len - a->base) / unit * unit;
	if (p->io->write || p->gone || start >= end || !pick(s, a, &start, &end))
		return;
	if (!a->kind->shared) {
		p->gone = start;
		p->gone_end = end;
	}
	if (random_below(&s->rnd, 2) || a->kind->hugetlb) {
		if (madvise(start, end - start, MADV_DONTNEED))
			ksft_exit_fail_msg("MADV_DONTNEED: %s\n", strerror(errno));
		event(DONTNEEDS);
	} else {
		if (!area_map(a, start - a->base, end - start))
			ksft_exit_fail_msg("mmap: %s\n", strerror(errno));
		event(MUNMAPS);
	}
}

static const struct {
	const char *name;
	void (*take)(struct self *s, struct round *r);
	bool looked_up;		/* not before the I/O has all its pages */
} steps[] = {
	{ "touch", step_touch },
	{ "fork", step_fork },
	{ "mprotect", step_protect, true },
	{ "mremap", step_move, true },
	{ "rwp", step_protect_rw, true },
	{ "handover", step_hand_over, true },
	{ "drop", step_drop, true },
};

static void take_steps(struct self *s, struct round *r)
{
	unsigned int n = random_below(&s->rnd, MAX_STEPS_TAKEN + 1), i;

	while (n--) {
		nap(random_below(&s->rnd, 4) ? 0 : random_below(&s->rnd, 20000));
		i = random_below(&s->rnd, ARRAY_SIZE(steps));
		if (steps[i].looked_up && !r->looked_up)
			continue;
		snprintf(r->steps + strlen(r->steps), sizeof(r->steps) - strlen(r->steps), " %s",
			 steps[i].name);
		/* Some take pages away: nobody else is to use them. */
		pthread_mutex_lock(&r->area->lock);
		steps[i].take(s, r);
		pthread_mutex_unlock(&r->area->lock);
	}
}

/* A round */

/* As the file system wants it. */
static size_t aligned(size_t n)
{
	return n - n % soak.align;
}

static size_t random_size(struct self *s)
{
	const size_t most[] = { 4 * PAGE, 4 * PAGE, 4 * PAGE, 64 << 10, 64 << 10, LONGEST };
	size_t max = most[random_below(&s->rnd, ARRAY_SIZE(most))];
	size_t size = 512 + random_below(&s->rnd, max - 512 + 1);

	return random_below(&s->rnd, 3) ? size & ~511UL : aligned(size);
}

/*
 * READ_PLUS of NFS 4.2 fails with EIO, with pin_guard and without, if the last page has fewer of the
 * bytes than the remainder of the length by four: xdr_stream_subsegment() (net/sunrpc/xdr.c) counts
 * words, and believes that the reply ends with the page before.
 */
static size_t readable(const char *start, size_t len)
{
	size_t on_last_page = (unsigned long)(start + len) % PAGE;

	return on_last_page && on_last_page < len % 4 ? len - len % 4 : len;
}

static void random_segments(struct self *s, struct piece *p)
{
	struct memory *m = &p->mem;
	size_t at = 0, len;

	m->segs = 0;
	while (p->io->kind->vectored && m->segs < MAX_SEGS - 1 && at < p->len) {
		len = aligned(random_below(&s->rnd, p->len - at) & ~7UL) ?: p->len - at;
		m->seg[m->segs].iov_base = p->start + at;
		m->seg[m->segs++].iov_len = len;
		at += len;
	}
	if (at < p->len) {
		m->seg[m->segs].iov_base = p->start + at;
		m->seg[m->segs++].iov_len = p->len - at;
	}
}

static void plan_piece(struct self *s, struct round *r, char *start, size_t len)
{
	struct piece *p = &r->piece[r->pieces];
	const struct io_kind *kind;
	struct io *io;

	do {
		io = &s->io[r->pieces][random_below(&s->rnd, nr_io_kinds)];
		kind = io->kind;
	} while (kind->dma != soak.dma || kind->pins);

	p->io = io;
	p->start = start;
	p->len = len;
	p->gone = p->gone_end = NULL;
	random_segments(s, p);
	io->mem = &p->mem;
	io->write = !soak.dma && !r->area->kind->hugetlb && !random_below(&s->rnd, 5);
	if (io->write) {
		p->serial = ++s->serial;
		io->fd = s->write_fd;
		io->offset = r->pieces * WRITE_ROOM + aligned(random_below(&s->rnd, 512) * 8);
	} else if (soak.dma) {
		p->serial = ++s->serial << 4 | s->number;
		io->stamp = stamp(STAMP_DMA, p->serial, 0);
		p->target.latency_ms = random_below(&s->rnd, 40);
		io->offset = 0;
	} else {
		p->serial = FILE_OF_PARENT;
		io->fd = soak.fd;
		io->offset = aligned(random_below(&s->rnd, (FILE_SIZE - len) / 8) * 8);
	}
	p->target.mode = soak.mode;
	p->target.path = soak.path;
	p->target.dma = soak.dma;
	io->target = &p->target;
	r->pieces++;
}

/* Where the I/O of this round goes: neighbours, perhaps in the same page. */
static void plan(struct self *s, struct round *r)
{
	struct area *a;
	unsigned int n = 1 + random_below(&s->rnd, MAX_PIECES);
	size_t len = random_size(s);
	char *at, *end;

	memset(r, 0, sizeof(*r));
	/* Each submitter has every kind. */
	do {
		a = &soak.area[random_below(&s->rnd, soak.areas)];
	} while ((a - soak.area) * soak.submitters / soak.areas != s->number);
	r->area = a;
	/* Most are near the start, for the sake of fast forks. */
	at = a->base + random_below(&s->rnd, random_below(&s->rnd, 4) ? NEAR : AREA_SIZE - len);
	at -= (unsigned long)at % (random_below(&s->rnd, 3) ? 512 : soak.align);
	end = a->base + AREA_SIZE;
	r->looked_up = true;
	pthread_mutex_lock(&a->lock);
	/* Memory that is new, and less of it. */
	if (!random_below(&s->rnd, 8) && !madvise(a->base, AREA_SIZE, MADV_DONTNEED))
		event(DONTNEEDS);
	a->start = (char *)((unsigned long)at & ~(PAGE - 1));
	while (n-- && at + len <= end) {
		len = readable(at, len);
		plan_piece(s, r, at, len);
		r->looked_up &= r->piece[r->pieces - 1].io->kind->looks_up;
		at += len + (random_below(&s->rnd, 2) ? 0 : aligned(random_below(&s->rnd, 1000)));
		len = random_size(s) % (4 * PAGE) ?: 512;
	}
	at = r->piece[r->pieces - 1].start + r->piece[r->pieces - 1].len;
	a->end = (char *)(((unsigned long)at + PAGE - 1) & ~(PAGE - 1));
	pthread_mutex_unlock(&a->lock);
}

static int write_open(unsigned int number, int flags)
{
	char name[4096];
	int fd;

	snprintf(name, sizeof(name), "%s/soak.%d.%u", soak.path, getpid(), number);
	fd = open(name, flags | O_DIRECT | O_CLOEXEC, 0600);
	if (fd < 0)
		ksft_exit_fail_msg("%s: %s\n", name, strerror(errno));
	if (!(flags & O_CREAT))
		unlink(name);
	return fd;
}

static void self_init(struct self *s, unsigned int number)
{
	unsigned int i, k;

	s->number = number;
	s->rnd = random_seed(number);
	if (!soak.dma) {
		s->write_fd = write_open(number, O_CREAT | O_RDWR);
		s->verify_fd = write_open(number, O_RDONLY);
	}
	s->verify = mmap(NULL, LONGEST, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < MAX_PIECES; i++) {
		s->io[i] = calloc(nr_io_kinds, sizeof(struct io));
		for (k = 0; k < nr_io_kinds; k++) {
			static const struct target device = { .path = "/dev/pin_guard_dma" };
			struct io *io = &s->io[i][k];

			io->kind = &io_kinds[k];
			io->target = &device;
			if (io->kind->dma == soak.dma && !io->kind->pins)
				io->kind->setup(io);
		}
	}
}

static struct self selves[MAX_SUBMITTERS];

void submitters_make(void)
{
	unsigned int i;

	for (i = 0; i < soak.submitters; i++)
		self_init(&selves[i], i);
}

void *submitter(void *number)
{
	struct round *r = calloc(1, sizeof(*r));
	struct self *s = &selves[(unsigned long)number];
	unsigned int i;

	while (!stopped()) {
		plan(s, r);
		fill(r);
		for (i = 0; i < NR_EVENTS; i++)
			r->before[i] = atomic_load(&soak.count[i]);
		for (i = 0; i < r->pieces; i++)
			r->piece[i].io->kind->submit(r->piece[i].io);
		take_steps(s, r);
		for (i = 0; i < r->pieces; i++)
			r->piece[i].io->kind->wait(r->piece[i].io);
		check(s, r);
	}
	return NULL;
}

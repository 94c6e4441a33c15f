// SPDX-License-Identifier: GPL-2.0
/* Those who fork, and those who shuffle pages, while others have I/O in flight. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pin_guard_dma.h"
#include "soak.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define MAX_CHILDREN	4	/* of a forker, at a time */
#define CHILD_READ_MAX	(64UL << 10)

void touch(char *start, char *end, uint64_t *rnd)
{
	char *at, zero = 0;

	/* What adds nothing must not become a mere load. */
	__asm__ volatile("" : "+r" (zero));
	for (at = start; at < end; at += PAGE) {
		if (rnd && random_below(rnd, 3))
			continue;
		/* Atomic: the device may be writing to the same word. */
		__atomic_fetch_add(at, zero, __ATOMIC_SEQ_CST);
	}
	event(TOUCHES);
}

/* Children: they have one thread, and all that the others may have locked is to be left alone. */

static void __printf(1, 2) child_lost(const char *fmt, ...)
{
	va_list args;

	if (!atomic_fetch_add(&soak.child->lost, 1)) {
		va_start(args, fmt);
		vsnprintf(soak.child->why, sizeof(soak.child->why), fmt, args);
		va_end(args);
	}
}

static uint64_t checksum(const char *start, const char *end)
{
	uint64_t sum = 0;

	for (; start < end; start += 8)
		sum = (sum ^ *(const uint64_t *)start) * 0x100000001b3ULL;
	return sum;
}

/* What has come into the child's memory until its first look stays as it is. */
static void child_snapshot(struct area *a, uint64_t *rnd)
{
	uint64_t before = checksum(a->start, a->end), after;

	nap(random_below(rnd, 60000));
	after = checksum(a->start, a->end);
	if (before != after)
		child_lost("the memory (%s) of a child changed after the fork, in %zu bytes at %p",
			   a->kind->name, (size_t)(a->end - a->start), a->start);
	/* In a child as in its child. */
	if (!random_below(rnd, 4)) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		touch(a->start, a->end, NULL);
		if (checksum(a->start, a->end) != before)
			child_lost("the memory (%s) of a child changed after its own fork",
				   a->kind->name);
	}
}

static void child_write(struct area *a, uint64_t *rnd)
{
	char *at;

	for (at = a->start; at < a->end; at += 8)
		*(uint64_t *)at = stamp(STAMP_CHILD, getpid(), (unsigned long)at);
	nap(random_below(rnd, 5000));
}

static size_t child_read_len(const struct area *a)
{
	size_t len = a->end - a->start;

	return len < CHILD_READ_MAX ? len : CHILD_READ_MAX;
}

/* Begins a read to the child's own pages, by DMA; returns the device, or -1. */
static int child_dma(struct area *a, struct pin_guard_dma_wait *w)
{
	struct pin_guard_dma_submit submit = {
		.addr = (unsigned long)a->start,
		.len = child_read_len(a),
		.pattern = stamp(STAMP_FILE, FILE_OF_CHILD, 0),
		.delay_ms = 10,
		.mode = soak.mode,
		.op = PIN_GUARD_DMA_FILL,
	};
	int fd = open(soak.path, O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, PIN_GUARD_DMA_SUBMIT, &submit)) {
		child_lost("a child's own request: %s", strerror(errno));
		return -1;
	}
	w->id = submit.id;
	return fd;
}

static void child_read(struct area *a)
{
	size_t len = child_read_len(a), i;
	struct pin_guard_dma_wait w = { 0 };

	if (soak.dma) {
		int fd = child_dma(a, &w);

		if (fd < 0)
			return;
		if (ioctl(fd, PIN_GUARD_DMA_WAIT, &w))
			w.result = -1;
	} else {
		w.result = pread(soak.child_fd, a->start, len, 0);
	}
	if (w.result != (ssize_t)len) {
		child_lost("a child's own read of %zu bytes to %s: came %lld, %s", len,
			   a->kind->name, (long long)w.result, strerror(errno));
		return;
	}
	for (i = 0; i < len; i += 8) {
		uint64_t came = *(uint64_t *)(a->start + i);
		uint64_t expected = stamp(STAMP_FILE, FILE_OF_CHILD, soak.dma ? 0 : i);

		if (came == expected)
			continue;
		child_lost("a child's own read of %zu bytes to %s at %p: at %#zx expected %016lx, came %016lx",
			   len, a->kind->name, a->start, i, expected, came);
		return;
	}
}

/* A read that nobody waits for: the child ends, or becomes another program. */
static void child_leave(struct area *a)
{
	struct pin_guard_dma_wait w;
	struct iocb cb = {
		.aio_fildes = soak.child_fd,
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_buf = (unsigned long)a->start,
		.aio_nbytes = child_read_len(a),
	}, *cbs = &cb;
	aio_context_t ctx = 0;

	if (soak.dma)
		child_dma(a, &w);
	else if (syscall(SYS_io_setup, 1, &ctx) || syscall(SYS_io_submit, ctx, 1, &cbs) != 1)
		child_lost("a child's own io_submit: %s", strerror(errno));
}

static void child_exec(void)
{
	execl("/proc/self/exe", "soak", CHILD_EXEC, NULL);
	child_lost("exec: %s", strerror(errno));
}

enum child {
	CHILD_GONE, CHILD_LINGERS, CHILD_LEAVES, CHILD_EXECS_ONLY, CHILD_LEAVES_BY_EXEC,
	CHILD_SNAPSHOT, CHILD_WRITES_TO_IT, CHILD_READS_TO_IT,
	NR_CHILDREN
};

static void __noreturn child_main(enum child what, struct area *a, uint64_t *rnd)
{
	signal(SIGALRM, SIG_DFL);
	alarm(300);
	switch (what) {
	case CHILD_LINGERS:
		nap(random_below(rnd, 60000));
		break;
	case CHILD_SNAPSHOT:
		child_snapshot(a, rnd);
		break;
	case CHILD_WRITES_TO_IT:
		child_write(a, rnd);
		break;
	case CHILD_READS_TO_IT:
		child_read(a);
		break;
	case CHILD_LEAVES:
		child_leave(a);
		break;
	case CHILD_LEAVES_BY_EXEC:
		child_leave(a);
		child_exec();
		break;
	case CHILD_EXECS_ONLY:
		child_exec();
		break;
	default:
		break;
	}
	_exit(0);
}

static const enum event child_events[NR_CHILDREN] = {
	[CHILD_LEAVES] = CHILD_EXITS,
	[CHILD_EXECS_ONLY] = CHILD_EXECS,
	[CHILD_LEAVES_BY_EXEC] = CHILD_EXECS,
	[CHILD_SNAPSHOT] = CHILD_SNAPSHOTS,
	[CHILD_WRITES_TO_IT] = CHILD_WRITES,
	[CHILD_READS_TO_IT] = CHILD_READS,
};

static bool child_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	/* Where the pool of huge pages has no more, the kernel takes them from the child. */
	if (status && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS))
		report_loss("a child ended with status %#x", status);
	return true;
}

/* Returns the child, or 0. */
static pid_t start_child(enum child what, struct area *a, uint64_t *rnd)
{
	pid_t pid = fork();

	if (!pid)
		child_main(what, a, rnd);
	if (pid < 0) {
		/* A pinned huge page needs another for the child. */
		if (errno != ENOMEM)
			ksft_exit_fail_msg("fork: %s\n", strerror(errno));
		event(FORKS_REFUSED);
		return 0;
	}
	event(FORKS);
	if (child_events[what])
		event(child_events[what]);
	return pid;
}

void fork_once(void)
{
	pid_t pid = start_child(CHILD_GONE, NULL, NULL);

	if (pid)
		child_wait(pid);
}

void *forker(void *number)
{
	uint64_t rnd = random_seed((unsigned long)number);
	pid_t child[MAX_CHILDREN] = { 0 };
	unsigned int i = (unsigned long)number * NR_CHILDREN;

	while (!stopped()) {
		struct area *a = &soak.area[random_below(&rnd, soak.areas)];
		/* Each kind in its turn, and the plain one as often as all others. */
		enum child what = i % 2 ? i / 2 % NR_CHILDREN : CHILD_GONE;
		pid_t *slot = &child[i++ % MAX_CHILDREN];
		bool locked = false;

		if (*slot)
			child_wait(*slot);
		/* A child that looks at an area must find it in its place. */
		if (what >= CHILD_LEAVES) {
			while (a->kind->shared || a->start == a->end)
				a = &soak.area[random_below(&rnd, soak.areas)];
			locked = !pthread_mutex_trylock(&a->lock);
			if (!locked)
				what = CHILD_LINGERS;
		}
		*slot = start_child(what, a, &rnd);
		if (locked)
			pthread_mutex_unlock(&a->lock);
	}
	for (i = 0; i < MAX_CHILDREN; i++)
		if (child[i])
			child_wait(child[i]);
	return NULL;
}

/* Pages */

/* Beside the span: nearby, so that a huge page that is part of it is split. */
static bool beside(const struct area *a, size_t *offset, size_t *len, uint64_t *rnd)
{
	size_t unit = area_unit(a), first, last, n;

	if (random_below(rnd, 2)) {
		last = (a->start - a->base) / unit;
		first = last > 64 ? last - 64 : 0;
	} else {
		first = (a->end - a->base + unit - 1) / unit;
		last = AREA_SIZE / unit;
		if (last > first + 64)
			last = first + 64;
	}
	if (first >= last)
		return false;
	n = random_below(rnd, last - first);
	*offset = (first + n) * unit;
	*len = (1 + random_below(rnd, last - first - n)) * unit;
	return true;
}

static void disturb_beside(struct area *a, uint64_t *rnd)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	size_t offset, len;
	char *at, *to;

	if (!beside(a, &offset, &len, rnd))
		return;
	at = a->base + offset;
	to = a->elsewhere + offset;
	switch (random_below(rnd, 5)) {
	case 0:
		if (!madvise(at, len, MADV_DONTNEED))
			event(DONTNEEDS);
		break;
	case 1:
		if (mprotect(at, len, random_below(rnd, 2) ? PROT_READ : PROT_NONE))
			break;
		nap(random_below(rnd, 2000));
		if (mprotect(at, len, PROT_READ | PROT_WRITE))
			ksft_exit_fail_msg("mprotect: %s\n", strerror(errno));
		event(MPROTECTS);
		break;
	case 2:
		if (a->kind->hugetlb)	/* another may take the page out of the pool */
			break;
		munmap(at, len);
		nap(random_below(rnd, 2000));
		if (!area_map(a, offset, len))
			ksft_exit_fail_msg("mmap: %s\n", strerror(errno));
		event(MUNMAPS);
		break;
	case 3:
		if (mremap(at, len, len, flags, to) != to)
			break;
		nap(random_below(rnd, 2000));
		if (mremap(to, len, len, flags, at) != at)
			ksft_exit_fail_msg("mremap back: %s\n", strerror(errno));
		event(MREMAPS);
		break;
	case 4:
		if (!area_protect_rw(at, len))
			break;
		nap(random_below(rnd, 2000));
		area_unprotect_rw(at, len);
		break;
	}
}

static void disturb_locked(struct area *a, uint64_t *rnd)
{
	if (pthread_mutex_trylock(&a->lock))
		return;
	if (random_below(rnd, 3))
		touch(a->start, a->end, random_below(rnd, 2) ? rnd : NULL);
	else
		disturb_beside(a, rnd);
	pthread_mutex_unlock(&a->lock);
}

/* By a pin for reading, which takes shared pages apart as a write does. */
static void pvm_read(const struct area *a)
{
	static __thread char copy[64 << 10];
	struct iovec to = { copy, sizeof(copy) }, from = { a->start, sizeof(copy) };

	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) > 0)
		event(PVM_READS);
}

void *disturber(void *number)
{
	uint64_t rnd = random_seed((unsigned long)number);

	while (!stopped()) {
		struct area *a = &soak.area[random_below(&rnd, soak.areas)];
		char *huge = a->base + random_below(&rnd, AREA_SIZE / HUGE_SIZE) * HUGE_SIZE;

		switch (random_below(&rnd, 8)) {
		case 0:
			pvm_read(a);
			break;
		case 1:
			if (!madvise(a->start, random_below(&rnd, 64) * PAGE, MADV_PAGEOUT))
				event(PAGEOUTS);
			break;
		case 2:
			if (a->kind->huge && !madvise(huge, HUGE_SIZE, MADV_COLLAPSE))
				event(COLLAPSES);
			break;
		default:
			disturb_locked(a, &rnd);
			break;
		}
		nap(random_below(&rnd, 2000));
	}
	return NULL;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * One measurement, in a process of its own. Prints a line per sample: case, series, nanoseconds.
 *
 *   bench SERIES fork MEGABYTES 4k|thp COUNT	fork() of a process that has touched that much
 *   bench SERIES read FILE BYTES COUNT		pread() with O_DIRECT
 *   bench pin COUNT				PinGuard and the same in C, alternating
 *   bench inflight 4k|thp COUNT		fork() with and without 1 MiB of I/O in flight
 *   bench windows MAPPINGS WINDOWS mapped|unmapped COUNT
 *						fork() with and without so many windows open
 *   bench open WINDOWS PROCESSES COUNT		a window is opened and closed, others are open
 *   bench scaling one-mm|two-mms COUNT		windows and pins, on one processor and on two at once
 *   bench idle PROCESSES			so many that wait, until it is killed
 *   bench clock				says what the clock counts: time, or instructions
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pair.h"
#include "pin_guard_bench.h"
#include "../selftests/page.h"
#include "../samples/pin_guard_dma.h"

#define MIB	(1UL << 20)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static void sample(const char *name, const char *series, uint64_t ns)
{
	printf("%s %s %llu\n", name, series, (unsigned long long)ns);
}

/* On one CPU, and before everything else there; children are ordinary tasks again. */
static void settle(void)
{
	struct sched_param param = { .sched_priority = 1 };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		err(1, "sched_setaffinity");
	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param))
		err(1, "sched_setscheduler");
}

static size_t huge_kib(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[128];
	size_t kib = 0;

	if (!f)
		err(1, "smaps_rollup");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonHugePages: %zu", &kib) == 1)
			break;
	fclose(f);
	return kib;
}

/* Touched anonymous memory, aligned to 2 MiB. */
static char *memory(size_t len, bool thp)
{
	char *p = mmap(NULL, len + HUGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *aligned = (char *)(((uintptr_t)p + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));

	if (p == MAP_FAILED)
		err(1, "mmap of %zu", len);
	if (madvise(aligned, len, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		err(1, "madvise");
	for (size_t i = 0; i < len; i += PAGE)
		aligned[i] = 1;
	if (thp && huge_kib() < (len & ~(HUGE_SIZE - 1)) >> 10)
		errx(1, "%zu bytes, but only %zu KiB of huge pages", len, huge_kib());
	return aligned;
}

static bool is_thp(const char *kind)
{
	if (strcmp(kind, "4k") && strcmp(kind, "thp"))
		errx(2, "%s: neither 4k nor thp", kind);
	return !strcmp(kind, "thp");
}

static uint64_t time_fork(void)
{
	uint64_t start = now();
	pid_t pid = _Fork();
	uint64_t ns = now() - start;

	if (!pid)
		_exit(0);
	if (pid < 0)
		err(1, "fork");
	if (waitpid(pid, NULL, 0) != pid)
		err(1, "waitpid");
	return ns;
}

static void bench_fork(const char *series, size_t mib, const char *kind, int count)
{
	bool thp = is_thp(kind);
	char name[64];

	snprintf(name, sizeof(name), "fork/%s/%zuM", kind, mib);
	/* A huge page at least: less than one cannot be huge. */
	memory(thp && mib * MIB < HUGE_SIZE ? HUGE_SIZE : mib * MIB, thp);
	for (int i = -2; i < count; i++) {
		uint64_t ns = time_fork();

		if (i >= 0)
			sample(name, series, ns);
	}
}

static void bench_read(const char *series, const char *file, size_t len, int count)
{
	char *buf = memory(len, false);
	int fd = open(file, O_RDONLY | O_DIRECT);
	char name[64];

	if (fd < 0)
		err(1, "%s", file);
	snprintf(name, sizeof(name), "read/%zuK", len >> 10);
	for (int i = -5; i < count; i++) {
		uint64_t start = now(), ns;
		ssize_t got = pread(fd, buf, len, 0);

		ns = now() - start;
		if (got != (ssize_t)len)
			err(1, "%s: read %zd of %zu", file, got, len);
		if (i >= 0)
			sample(name, series, ns);
	}
}

static uint64_t time_pins(int fd, char *addr, unsigned int pages, unsigned int op,
			  unsigned int loops)
{
	struct pin_guard_bench run = {
		.addr = (uintptr_t)addr, .len = pages * PAGE, .op = op, .loops = loops,
	};

	if (ioctl(fd, PIN_GUARD_BENCH, &run))
		err(1, "PIN_GUARD_BENCH");
	return run.ns / loops;
}

static int open_bench(void)
{
	int fd = open("/dev/pin_guard_bench", O_RDWR);

	if (fd < 0)
		err(1, "/dev/pin_guard_bench");
	return fd;
}

static void bench_pin(int count)
{
	static const struct {
		const char *name;
		unsigned int reference, guard;
	} direction[] = {
		{ "dest", PIN_GUARD_BENCH_C_DEST, PIN_GUARD_BENCH_GUARD_DEST },
		{ "source", PIN_GUARD_BENCH_C_SOURCE, PIN_GUARD_BENCH_GUARD_SOURCE },
	};
	static const unsigned int sizes[] = { 1, 2, 4, 8, 16, 64, 256, 512 };
	int fd = open_bench();

	for (int thp = 0; thp < 2; thp++) {
		char *buf = memory(HUGE_SIZE, thp);

		for (size_t s = 0; s < ARRAY_SIZE(sizes) * ARRAY_SIZE(direction); s++) {
			unsigned int pages = sizes[s / ARRAY_SIZE(direction)];
			size_t d = s % ARRAY_SIZE(direction);
			/* About as long a block whatever the size. */
			unsigned int loops = 20 + (thp ? 2000 : 1000) / pages;
			char name[64];

			snprintf(name, sizeof(name), "pin/%s/%s/%u", thp ? "thp" : "4k",
				 direction[d].name, pages);
			for (int i = -3; i < 3 * count; i++) {
				static const char * const series[] = { "base", "test", "again" };
				/* Which of the three goes first changes from round to round. */
				int which = (i + 3 + (i + 3) / 3) % 3;
				uint64_t ns = time_pins(fd, buf, pages,
							which == 1 ? direction[d].guard :
							direction[d].reference, loops);

				if (i >= 0)
					sample(name, series[which], ns);
			}
		}
	}
}

/* As the kernel copies pages. */
static void copy(void *to, const void *from, size_t len)
{
	size_t words = len / 8;

	asm volatile("rep movsq" : "+D" (to), "+S" (from), "+c" (words) : : "memory");
}

static void bench_inflight(const char *kind, int count)
{
	bool thp = is_thp(kind);
	char *buf = memory(10 * MIB, thp);
	char *to = memory(MIB, false);
	int fd = open("/dev/pin_guard_dma", O_RDWR);
	char name[64];

	if (fd < 0)
		err(1, "/dev/pin_guard_dma");
	snprintf(name, sizeof(name), "inflight/%s", kind);
	for (int i = -1; i < count; i++) {
		struct pin_guard_dma_submit submit = {
			.addr = (uintptr_t)buf, .len = MIB, .delay_ms = 500,
			.mode = PIN_GUARD_DMA_WINDOW, .op = PIN_GUARD_DMA_FILL,
		};
		struct pin_guard_dma_wait wait = { 0 };
		uint64_t idle, inflight, start, copied;

		idle = time_fork();
		if (ioctl(fd, PIN_GUARD_DMA_SUBMIT, &submit))
			err(1, "PIN_GUARD_DMA_SUBMIT");
		inflight = time_fork();
		wait.id = submit.id;
		if (ioctl(fd, PIN_GUARD_DMA_WAIT, &wait) || wait.result != (int64_t)MIB)
			err(1, "PIN_GUARD_DMA_WAIT");
		start = now();
		for (size_t at = 0; at < MIB; at += PAGE)
			copy(to + at, buf + at, PAGE);
		copied = now() - start;
		/* The first time is for the caches. */
		if (i < 0)
			continue;
		sample(name, "idle", idle);
		sample(name, "inflight", inflight);
		sample(name, "copy", copied);
	}
}

/* Windows on so many pages from there on, instead of those of before. */
static void hold(int fd, char *addr, size_t count)
{
	struct pin_guard_bench_hold hold = { .addr = (uintptr_t)addr, .count = count };

	if (ioctl(fd, PIN_GUARD_BENCH_HOLD, &hold))
		err(1, "PIN_GUARD_BENCH_HOLD");
}

static size_t mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	size_t n = 0;

	if (!f)
		err(1, "maps");
	while (fgets(line, sizeof(line), f))
		n++;
	fclose(f);
	return n;
}

/* So many in all, at least. Each has a page. */
static void map_more(size_t wanted)
{
	size_t pages, have = mappings();
	char *p;

	if (have >= wanted)
		return;
	pages = wanted - have;
	p = memory(pages * PAGE, false);
	for (size_t i = 0; i < pages; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ))
			err(1, "mprotect");
}

static void bench_windows(size_t wanted, size_t windows, const char *where, int count)
{
	bool mapped = !strcmp(where, "mapped");
	char *pages = memory((windows ?: 1) * PAGE, false);
	int fd = open_bench();
	char name[64];

	if (!mapped && strcmp(where, "unmapped"))
		errx(2, "%s: neither mapped nor unmapped", where);
	/* The same pages are there either way. */
	map_more(wanted);
	snprintf(name, sizeof(name), "windows/%s/%zu/%zu", where, wanted, windows);
	for (int i = -1; i < count; i++) {
		uint64_t idle, inflight;

		hold(fd, NULL, 0);
		idle = time_fork();
		/* At the other end of the address space there is nothing. */
		hold(fd, mapped ? pages : (char *)(1UL << 32), windows);
		inflight = time_fork();
		if (i < 0)
			continue;
		sample(name, "idle", idle);
		sample(name, "windows", inflight);
	}
}

static void bench_open(size_t windows, int processes, int count)
{
	size_t each = windows / processes;
	char *pages = memory(each * PAGE, false);
	int fd = open_bench(), ready[2], done[2];
	char name[64], byte;

	if (pipe(ready) || pipe(done))
		err(1, "pipe");
	/* Each has an mm of its own. The last is this one. */
	for (int i = 1; i < processes; i++) {
		pid_t pid = fork();

		if (pid < 0)
			err(1, "fork");
		if (pid)
			continue;
		hold(open_bench(), pages, each);
		close(done[1]);
		(void)!write(ready[1], "", 1);
		(void)!read(done[0], &byte, 1);
		_exit(0);
	}
	for (int i = 1; i < processes; i++)
		if (read(ready[0], &byte, 1) != 1)
			err(1, "a process is gone");
	hold(fd, pages, each);
	snprintf(name, sizeof(name), "open/%d/%zu", processes, windows);
	for (int i = -1; i < count; i++) {
		/* Somewhere in the middle of the others. */
		uint64_t ns = time_pins(fd, pages + each / 2 * PAGE, 1, PIN_GUARD_BENCH_WINDOW, 1000);

		if (i >= 0)
			sample(name, "open", ns);
	}
	close(done[0]);
	close(done[1]);
	while (wait(NULL) > 0)
		;
}

struct scaled {
	int fd;
	char *buf;
};

static void *prepare_scaled(int cpu)
{
	struct sched_param param = { .sched_priority = 1 };
	struct scaled *scaled = malloc(sizeof(*scaled));

	if (!scaled || sched_setscheduler(0, SCHED_FIFO, &param))
		err(1, "processor %d", cpu);
	/* Nothing in common but the module, and perhaps the mm. */
	scaled->fd = open_bench();
	scaled->buf = memory(HUGE_SIZE, false);
	return scaled;
}

static const struct {
	const char *name;
	unsigned int op, pages;
} scaled_work[] = {
	{ "window", PIN_GUARD_BENCH_WINDOW, 1 },
	{ "pin-c", PIN_GUARD_BENCH_C_DEST, 1 },
	{ "pin-guard", PIN_GUARD_BENCH_GUARD_DEST, 1 },
	{ "pin-c-16", PIN_GUARD_BENCH_C_DEST, 16 },
	{ "pin-guard-16", PIN_GUARD_BENCH_GUARD_DEST, 16 },
};

static void work_scaled(void *data, int kind)
{
	struct scaled *scaled = data;
	unsigned int pages = scaled_work[kind].pages;

	time_pins(scaled->fd, scaled->buf, pages, scaled_work[kind].op, 20000 / pages);
}

struct thread {
	struct pair *pair;
	int i;
};

static void *scaled_thread(void *arg)
{
	struct thread *thread = arg;

	pair_worker(thread->pair, thread->i);
	return NULL;
}

static void bench_scaling(const char *where, int count)
{
	struct pair *pair = pair_new(prepare_scaled, work_scaled);
	const char *names[ARRAY_SIZE(scaled_work)];
	struct thread thread[2];
	bool threads = !strcmp(where, "one-mm");

	if (!threads && strcmp(where, "two-mms"))
		errx(2, "%s: neither one-mm nor two-mms", where);
	for (size_t k = 0; k < ARRAY_SIZE(scaled_work); k++) {
		static char name[ARRAY_SIZE(scaled_work)][64];

		snprintf(name[k], sizeof(name[k]), "%s/%s", where, scaled_work[k].name);
		names[k] = name[k];
	}
	for (int i = 0; i < 2; i++) {
		pthread_t id;

		thread[i] = (struct thread){ pair, i };
		if (!threads)
			pair_fork(pair, i);
		else if (pthread_create(&id, NULL, scaled_thread, &thread[i]))
			errx(1, "pthread_create");
	}
	pair_measure(pair, names, ARRAY_SIZE(scaled_work), count);
}

/*
 * Each takes the counters of an mm from the percpu allocator, and so fills the holes that a load or
 * an unload has left there. A fork that finds no hole searches the whole chunk for the next one.
 */
static void idle(int processes)
{
	for (int i = 0; i < processes; i++) {
		pid_t pid = fork();

		if (pid < 0)
			err(1, "fork");
		if (pid)
			continue;
		/* The parent is there: only a signal ends it. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
	}
	puts("ready");
	fflush(stdout);
	pause();
}

/*
 * In an emulator that lets the clock follow the instructions (QEMU's -icount shift=0) a nanosecond
 * is an instruction; then a loop of known length takes just that long.
 */
static bool counts_instructions(void)
{
	uint64_t loops = 1000000, start = now(), ns;

	asm volatile("1: dec %0; jnz 1b" : "+r" (loops) : : "cc");
	ns = now() - start;
	return ns > 1980000 && ns < 2040000;
}

static void bench_clock(void)
{
	int yes = 0;

	for (int i = 0; i < 9; i++)
		yes += counts_instructions();
	puts(yes >= 7 ? "instructions" : "time");
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	settle();
	if (argc == 6 && !strcmp(argv[2], "fork"))
		bench_fork(argv[1], atol(argv[3]), argv[4], atoi(argv[5]));
	else if (argc == 6 && !strcmp(argv[2], "read"))
		bench_read(argv[1], argv[3], atol(argv[4]), atoi(argv[5]));
	else if (argc == 3 && !strcmp(argv[1], "pin"))
		bench_pin(atoi(argv[2]));
	else if (argc == 4 && !strcmp(argv[1], "inflight"))
		bench_inflight(argv[2], atoi(argv[3]));
	else if (argc == 6 && !strcmp(argv[1], "windows"))
		bench_windows(atol(argv[2]), atol(argv[3]), argv[4], atoi(argv[5]));
	else if (argc == 5 && !strcmp(argv[1], "open"))
		bench_open(atol(argv[2]), atoi(argv[3]), atoi(argv[4]));
	else if (argc == 4 && !strcmp(argv[1], "scaling"))
		bench_scaling(argv[2], atoi(argv[3]));
	else if (argc == 3 && !strcmp(argv[1], "idle"))
		idle(atoi(argv[2]));
	else if (argc == 2 && !strcmp(argv[1], "clock"))
		bench_clock();
	else
		errx(2, "usage: see the head of the source");
	return 0;
}

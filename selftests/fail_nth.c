// SPDX-License-Identifier: GPL-2.0
/*
 * fail_nth: an operation again and again, with its first allocation failed, its second, its
 * third, ... until it needs no more. Each run has to give an errno that is documented or a
 * right result.
 *
 * The script says in debugfs which allocations count: those below some function of the kernel
 * or of a module (Documentation/fault-injection/fault-injection.rst).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fail_nth.h"
#include "io_kinds.h"
#include "pin_guard_dma.h"

#define DMA_DEVICE	"/dev/pin_guard_dma"
#define FAIL_NTH	"/proc/thread-self/fail-nth"
#define MAX_WINDOWS	20	/* the fork hook has room for 16 at first */
#define CLEAN_RUNS	2	/* in a row: how many allocations there are varies by a few */
#define MAX_N		20000
#define MAX_ERRNO	200
#define MAX_LATE	4	/* times that a run is tried again, each with slower reads */
#define MIN_LATENCY_MS	200
#define MAX_LATENCY_MS	3200

const char *peer_address;
unsigned int send_mode;

static struct {
	bool control, fill;
	unsigned int limit_s, mode;
	const char *name, *memory, *io, *target, *slow;
	const struct operation *operation;
} opt = {
	.limit_s = 300, .mode = PIN_GUARD_DMA_WINDOW, .memory = "small", .io = "pread",
};

/* What the process of a run says. */
static struct report {
	bool injected;
	int err;
} *report;

static unsigned int nth;
static unsigned int latency_ms;		/* that reads take */
static int fail_nth_fd = -1;
static bool armed;

/*
 * The fault
 */

static void fail_nth_write(unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	if (pwrite(fail_nth_fd, text, len, 0) != len)
		give_up(FAIL_NTH ": %s", strerror(errno));
}

void arm(void)
{
	fail_nth_fd = open(FAIL_NTH, O_RDWR | O_CLOEXEC);
	if (fail_nth_fd < 0)
		give_up(FAIL_NTH ": %s", strerror(errno));
	fail_nth_write(nth);
	armed = true;
}

void disarm(void)
{
	char text[16] = "";
	int err = errno;

	if (!armed)
		return;
	armed = false;
	/* What the kernel counts down: at 0 it has struck. */
	if (pread(fail_nth_fd, text, sizeof(text) - 1, 0) <= 0)
		text[0] = '?';
	report->injected |= text[0] == '0';
	fail_nth_write(0);
	close(fail_nth_fd);
	errno = err;
}

/*
 * The ends of a run
 */

void refused(int err)
{
	report->err = err;
	finish(CASE_REFUSED, "%s", strerror(err));
}

/* What the kinds of I/O cannot submit while armed is what the fault did. */
static enum outcome run_ends(enum outcome outcome, const char *why)
{
	if (armed && outcome == CASE_FAILED) {
		report->err = errno;
		outcome = CASE_REFUSED;
	}
	disarm();
	return outcome;
}

/*
 * Reads, each of a window of its own
 */

static struct target target;
static struct memory area;
static unsigned char *expected;		/* in the area */

static struct window {
	struct memory mem;
	struct io io;
} windows[MAX_WINDOWS];

static const struct memory_kind *memory_kind(void)
{
	static const struct memory_kind * const kinds[] = {
		&mem_small, &mem_thp, &mem_hugetlb, &mem_file, &mem_anon4,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i]->name, opt.memory))
			return kinds[i];
	give_up("no kind of memory is called %s", opt.memory);
}

/* @vectored: in segments, for one window of all. */
static void area_map(bool vectored)
{
	size_t i;

	memory_map(&area, memory_kind(), vectored);
	expected = malloc(area.size);
	if (!expected)
		give_up("no memory");
	for (i = 0; i < area.size; i++)
		expected[i] = byte_before(i);
}

static void area_check(void)
{
	size_t i, first = 0, bad = 0;
	bool before = true;

	for (i = 0; i < area.size; i++) {
		if ((unsigned char)area.base[i] == expected[i])
			continue;
		if (!bad++)
			first = i;
		before &= (unsigned char)area.base[i] == byte_before(i);
	}
	if (!bad)
		return;
	verdict->lost = bad;
	finish(before ? CASE_LOST : CASE_FAILED,
	       "%zu bytes, first byte %zu of page %zu: expected 0x%02x, came 0x%02x", bad,
	       first % PAGE, first / PAGE, expected[first], (unsigned char)area.base[first]);
}

/* Once for all runs: over a slow link it takes its time. */
static void target_open(const char *path)
{
	target.path = path;
	target.dma = !strcmp(path, DMA_DEVICE);
	target.mode = opt.mode;
	target.fd = open(path, (target.dma ? O_RDWR : O_RDONLY | O_DIRECT) | O_CLOEXEC);
	if (target.fd < 0)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
}

static const struct io_kind *io_kind(void)
{
	const struct io_kind *kind = io_kind_by_name(opt.io);

	if (!kind)
		give_up("no kind of I/O is called %s", opt.io);
	return kind;
}

static void window_setup(struct window *w, const struct io_kind *kind)
{
	w->io = (struct io){
		.kind = kind, .target = &target, .fd = target.fd, .mem = &w->mem,
	};
	kind->setup(&w->io);
}

/*
 * What came of it has to be there. Of a read that was cut short by a fault the rest may have come,
 * too, or not. Returns an errno.
 */
static int window_expect(struct window *w, bool may_be_short)
{
	size_t at = 0, came = w->io.result < 0 ? 0 : w->io.result, j;
	unsigned int i;

	for (i = 0; i < w->mem.segs; i++) {
		unsigned char *to = w->mem.seg[i].iov_base;

		/* The device has a request for each segment, and each begins anew. */
		for (j = 0; j < w->mem.seg[i].iov_len; j++, at++) {
			unsigned char byte = byte_of_target(&target, target.dma ? j : at);

			if (at < came || to[j] == byte)
				expected[to + j - (unsigned char *)area.base] = byte;
		}
	}
	if (came > at || (came < at && !may_be_short))
		give_up("%ld of %zu bytes", w->io.result, at);
	return w->io.result < 0 ? -w->io.result : 0;
}

/*
 * A fork with reads in flight
 */

/* Small ones at different places of their pages, all over the area. */
static unsigned int windows_place(const struct io_kind *kind)
{
	size_t pages = area.size / PAGE, n = pages / (kind->vectored ? 2 : 1), i, j;

	n = n < MAX_WINDOWS ? n : MAX_WINDOWS;
	for (i = 0; i < n; i++) {
		struct memory *m = &windows[i].mem;
		size_t page = i * (pages / n), margin = 64 + i * 8;

		m->segs = kind->vectored ? 2 : 1;
		for (j = 0; j < m->segs; j++)
			m->seg[j] = (struct iovec){ area.base + (page + j) * PAGE + margin,
						    PAGE / 2 - margin };
		window_setup(&windows[i], kind);
	}
	return n;
}

static void run_fork(void)
{
	unsigned int i, n, late = 0;
	int err = 0;
	size_t at;
	pid_t pid;

	target.latency_ms = latency_ms;
	area_map(false);
	n = windows_place(io_kind());
	for (i = 0; i < n; i++)
		windows[i].io.kind->submit(&windows[i].io);

	arm();
	pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	if (pid < 0)
		err = errno;
	disarm();

	/* This is what moves the parent to a copy of the page. */
	for (at = 0; at < area.size; at += PAGE)
		area.base[at] = expected[at] = 'w';
	for (i = 0; i < n; i++)
		late += windows[i].io.kind->done(&windows[i].io);
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	for (i = 0; i < n; i++) {
		windows[i].io.kind->wait(&windows[i].io);
		window_expect(&windows[i], false);
	}
	area_check();
	/* They were in flight, or this says nothing. */
	if (late)
		finish(CASE_LATE, "%u of %u reads were done before the fork", late, n);
	if (err)
		refused(err);
	pass();
}

/*
 * A read
 */

static void run_read(void)
{
	const struct io_kind *kind = io_kind();
	struct window *w = &windows[0];
	int err;

	area_map(kind->vectored);
	w->mem = area;
	window_setup(w, kind);
	/* Not in the thread that is its way to have a read in flight. */
	if (!strncmp(kind->name, "pread", 5)) {
		arm();
		if (kind->vectored)
			w->io.result = preadv(target.fd, area.seg, area.segs, 0);
		else
			w->io.result = pread(target.fd, area.seg->iov_base, area.seg->iov_len, 0);
		if (w->io.result < 0)
			w->io.result = -errno;
		disarm();
	} else {
		arm();
		kind->submit(&w->io);
		disarm();
		kind->wait(&w->io);
	}
	err = window_expect(w, report->injected);
	area_check();
	if (err)
		refused(err);
	pass();
}

/*
 * Pins
 */

static int dma_submit(unsigned int op, __u64 *id)
{
	struct pin_guard_dma_submit s = {
		.addr = (unsigned long)area.seg->iov_base, .len = area.seg->iov_len,
		/* As byte_of_target() has it. */
		.mode = opt.mode, .op = op, .delay_ms = 20,
	};
	unsigned int i;
	int err;

	for (i = 0; i < 8; i++)
		s.pattern |= (uint64_t)byte_of_target(&target, i) << 8 * i;
	arm();
	err = ioctl(target.fd, PIN_GUARD_DMA_SUBMIT, &s) ? errno : 0;
	disarm();
	*id = s.id;
	return err;
}

static void run_pin(void)
{
	struct pin_guard_dma_wait w = { 0 };
	uint64_t sum = 0;
	size_t i;
	int err, op;

	area_map(false);
	op = !strcmp(opt.io, "sum") ? PIN_GUARD_DMA_SUM : PIN_GUARD_DMA_FILL;
	err = dma_submit(op, &w.id);
	if (!err) {
		if (ioctl(target.fd, PIN_GUARD_DMA_WAIT, &w))
			give_up("wait: %s", strerror(errno));
		if (w.result != (int64_t)area.seg->iov_len)
			give_up("result %lld of %zu", (long long)w.result, area.seg->iov_len);
		for (i = 0; op == PIN_GUARD_DMA_FILL && i < area.seg->iov_len; i++)
			expected[(char *)area.seg->iov_base + i - area.base] =
				byte_of_target(&target, i);
		for (i = 0; i < area.seg->iov_len; i++)
			sum += ((unsigned char *)area.seg->iov_base)[i];
		if (op == PIN_GUARD_DMA_SUM && w.sum != sum)
			give_up("sum %llu, expected %llu", (unsigned long long)w.sum,
			      (unsigned long long)sum);
	}
	area_check();
	if (err)
		refused(err);
	pass();
}

/* read(2) and write(2) on the device: pins of an iterator */
static void run_iterator(void)
{
	bool write = !strcmp(opt.io, "writev");
	size_t len = 0, done = 0, i, j;
	int fd = target.fd, err;
	ssize_t came;

	area_map(true);
	for (i = 0; i < area.segs; i++) {
		unsigned char *to = area.seg[i].iov_base;

		for (j = 0; write && j < area.seg[i].iov_len; j++)
			expected[to + j - (unsigned char *)area.base] = to[j] = (len + j) % 251;
		len += area.seg[i].iov_len;
	}
	arm();
	came = write ? pwritev(fd, area.seg, area.segs, 0) : preadv(fd, area.seg, area.segs, 0);
	err = errno;
	disarm();
	if (came >= 0 && came != (ssize_t)len)
		give_up("%zd of %zu bytes", came, len);
	for (i = 0; !write && came > 0 && i < area.segs; i++)
		for (j = 0; j < area.seg[i].iov_len; j++, done++)
			expected[(char *)area.seg[i].iov_base + j - area.base] = done % 251;
	area_check();
	if (came < 0)
		refused(err);
	pass();
}

/*
 * Modules
 */

/* How many functions that begin so have a callback. */
static unsigned int traced(const char *name)
{
	FILE *f = fopen("/sys/kernel/tracing/enabled_functions", "r");
	unsigned int n = 0;
	char line[512];

	if (!f)
		give_up("enabled_functions: %s", strerror(errno));
	while (fgets(line, sizeof(line), f))
		n += !strncmp(line, name, strlen(name));
	fclose(f);
	return n;
}

static void run_load(void)
{
	/* The last only if nfs.ko is there. */
	static const char * const targets[] = { "copy_page_range ", "move_page_tables ",
					       "userfaultfd_ioctl ", "nfs_file_read " };
	const char *slash = strrchr(opt.target, '/'), *base = slash ? slash + 1 : opt.target;
	bool ours = !strcmp(base, "pin_guard.ko"), nfs = !access("/sys/module/nfs", F_OK);
	unsigned int before = traced(""), after, i;
	char sysfs[200];
	int fd, err;

	snprintf(sysfs, sizeof(sysfs), "/sys/module/%.*s", (int)strcspn(base, "."), base);
	fd = open(opt.target, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		give_up("%s: %s", opt.target, strerror(errno));
	arm();
	err = syscall(SYS_finit_module, fd, "", 0) ? errno : 0;
	disarm();
	if (err) {
		after = traced("");
		if (!access(sysfs, F_OK))
			give_up("it has failed, and is there: %s", strerror(err));
		if (ours && !access("/sys/kernel/debug/pin_guard", F_OK))
			give_up("debugfs pin_guard is left: %s", strerror(err));
		if (after != before)
			give_up("%u functions were traced, %u are: %s", before, after, strerror(err));
		refused(err);
	}
	for (i = 0; ours && i < ARRAY_SIZE(targets) - !nfs; i++)
		if (traced(targets[i]) < 1)
			give_up("loaded, but %sis not attached", targets[i]);
	snprintf(sysfs, sizeof(sysfs), "%.*s", (int)strcspn(base, "."), base);
	if (syscall(SYS_delete_module, sysfs, O_NONBLOCK))
		give_up("unload: %s", strerror(errno));
	after = traced("");
	if (after != before)
		give_up("%u functions were traced, %u are when it is gone", before, after);
	pass();
}

/* nfs.ko comes while pin_guard is loaded, which then attaches itself, or says why not. */
static void run_come(void)
{
	char line[200], *state = NULL;
	int fd = open(opt.target, O_RDONLY | O_CLOEXEC), failed = 0, err;
	FILE *f;

	if (fd < 0)
		give_up("%s: %s", opt.target, strerror(errno));
	arm();
	err = syscall(SYS_finit_module, fd, "", 0) ? errno : 0;
	disarm();
	if (err)
		give_up("nfs.ko does not load: %s", strerror(err));
	f = fopen("/sys/kernel/debug/pin_guard/targets", "r");
	while (!state && f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "nfs_file_read ", 14))
			state = line + 14;
	if (f)
		fclose(f);
	if (syscall(SYS_delete_module, "nfs", O_NONBLOCK))
		give_up("unload: %s", strerror(errno));
	if (state && sscanf(state, "failed -%d", &failed) == 1)
		refused(failed);
	if (!state || strcmp(state, "attached\n"))
		give_up("nfs.ko is loaded, nfs_file_read is %s", state ? state : "not listed");
	pass();
}

/*
 * Runs
 */

static const struct operation operations[] = {
	{ "fork", "with reads in flight", run_fork, .reads = true, .errnos = { ENOMEM } },
	{ "read", "with O_DIRECT", run_read, .reads = true, .errnos = { ENOMEM } },
	{ "pin", "by the DMA device", run_pin, .reads = true, .errnos = { ENOMEM } },
	{ "iterator", "read(2) or write(2) on the DMA device", run_iterator, .reads = true, .errnos = { ENOMEM } },
	{ "load", "of a module", run_load, { ENOMEM } },
	{ "come", "nfs.ko, to pin_guard", run_come, { ENOMEM } },
};

static const struct operation * const sends[] = {
	&op_tcp, &op_tcp_big, &op_tcp_small, &op_tcp_batch, &op_udp, &op_udp_batch, &op_register,
};

static const struct operation *operation_by_name(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(operations); i++)
		if (!strcmp(operations[i].name, name))
			return &operations[i];
	for (i = 0; i < ARRAY_SIZE(sends); i++)
		if (!strcmp(sends[i]->name, name))
			return sends[i];
	ksft_exit_fail_msg("no operation is called %s\n", name);
}

static bool is_documented(int err)
{
	unsigned int i;

	for (i = 0; i < MAX_ERRNOS; i++)
		if (err && opt.operation->errnos[i] == err)
			return true;
	return false;
}

static void run_operation(unsigned int __always_unused i)
{
	opt.operation->run();
}

static struct verdict run(unsigned int n)
{
	memset(report, 0, sizeof(*report));
	nth = n;
	return case_run(run_operation, opt.limit_s);
}

/* Of more than these, many are for the same: a page of a huge page. */
static unsigned int next(unsigned int n)
{
	return n + (opt.control ? 10 : n < 128 ? 1 : n / 16);
}

/* Makes reads take so long: the device is asked for it, the link is set. */
static void set_latency(unsigned int ms)
{
	char command[200];

	latency_ms = ms < MAX_LATENCY_MS ? ms : MAX_LATENCY_MS;
	if (!opt.slow)
		return;
	snprintf(command, sizeof(command), "%s %ums", opt.slow, latency_ms);
	if (system(command))
		ksft_exit_fail_msg("%s: failed\n", command);
}

/* The file that is read. */
static int fill(const char *path)
{
	unsigned char *content = malloc(FILE_BYTES);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	size_t i;

	for (i = 0; i < FILE_BYTES; i++)
		content[i] = byte_of_target(&target, i);
	if (fd >= 0 && write(fd, content, FILE_BYTES) == FILE_BYTES && !fsync(fd))
		return KSFT_PASS;
	ksft_print_msg("%s: %s\n", path, strerror(errno));
	return KSFT_FAIL;
}

static void __noreturn usage(int status)
{
	size_t i;

	printf("Usage: fail_nth [options] OPERATION [TARGET]\n"
	       "  -C, --control       without protection: some run must lose data\n"
	       "  -F, --fill FILE     writes what is read later, and no more\n"
	       "  -n, --name TEXT     in the report\n"
	       "  -m, --memory KIND   small, thp, hugetlb, file, anon4\n"
	       "  -i, --io KIND       pread, libaio, ..., dma; fill, sum; readv, writev\n"
	       "  -M, --mode N        of the device that is used\n"
	       "  -a, --address A     of peer\n"
	       "  -s, --slow CMD      makes reads take as long as is put behind it, in ms\n"
	       "  -t, --limit S       a run that takes longer has failed (%u)\n", opt.limit_s);
	for (i = 0; i < ARRAY_SIZE(operations); i++)
		printf("%-10s %s\n", operations[i].name, operations[i].what);
	for (i = 0; i < ARRAY_SIZE(sends); i++)
		printf("%-10s %s\n", sends[i]->name, sends[i]->what);
	exit(status);
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "control", no_argument, NULL, 'C' },
		{ "fill", no_argument, NULL, 'F' },
		{ "name", required_argument, NULL, 'n' },
		{ "memory", required_argument, NULL, 'm' },
		{ "io", required_argument, NULL, 'i' },
		{ "mode", required_argument, NULL, 'M' },
		{ "address", required_argument, NULL, 'a' },
		{ "slow", required_argument, NULL, 's' },
		{ "limit", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int o;

	while ((o = getopt_long(argc, argv, "CFn:m:i:M:a:s:t:h", longs, NULL)) != -1) {
		switch (o) {
		case 'C':
			opt.control = true;
			break;
		case 'F':
			opt.fill = true;
			break;
		case 'n':
			opt.name = optarg;
			break;
		case 'm':
			opt.memory = optarg;
			break;
		case 'i':
			opt.io = optarg;
			break;
		case 'M':
			opt.mode = send_mode = atoi(optarg);
			break;
		case 'a':
			peer_address = optarg;
			break;
		case 's':
			opt.slow = optarg;
			break;
		case 't':
			opt.limit_s = atoi(optarg);
			break;
		default:
			usage(o == 'h' ? KSFT_PASS : KSFT_FAIL);
		}
	}
	if (optind == argc)
		usage(KSFT_FAIL);
	if (opt.fill)
		exit(fill(argv[optind]));
	opt.operation = operation_by_name(argv[optind]);
	if (optind + 1 < argc)
		opt.target = argv[optind + 1];
	if (!opt.name)
		opt.name = opt.operation->name;
}

int main(int argc, char **argv)
{
	unsigned int counts[MAX_ERRNO] = { 0 }, injected = 0, failed = 0, ok = 0, bad = 0;
	unsigned int clean = 0, late = 0, losses = 0, n, i;
	struct verdict v;
	size_t lost = 0;

	options(argc, argv);
	if (access("/proc/self/fail-nth", W_OK)) {
		ksft_print_msg("no fault injection in this kernel\n");
		return KSFT_SKIP;
	}
	signal(SIGPIPE, SIG_IGN);
	report = shared_memory(sizeof(*report));
	on_finish = run_ends;
	set_latency(MIN_LATENCY_MS);
	if (opt.operation->reads)
		target_open(opt.target ? opt.target : DMA_DEVICE);

	for (n = 1; clean < CLEAN_RUNS && bad < 3 && n < MAX_N; n = next(n)) {
		for (late = 0; v = run(n), v.outcome == CASE_LATE; late++) {
			if (late == MAX_LATE) {
				ksft_print_msg("%s, allocation %u: %s\n", opt.name, n, v.why);
				return KSFT_FAIL;
			}
			set_latency(latency_ms * 2);
		}
		injected += report->injected;
		clean = report->injected ? 0 : clean + 1;
		switch (v.outcome) {
		case CASE_PASSED:
			ok += report->injected;
			continue;
		case CASE_REFUSED:
			failed++;
			counts[report->err % MAX_ERRNO]++;
			if (report->injected && is_documented(report->err))
				continue;
			ksft_print_msg("%s, allocation %u: came %s, which is not documented%s\n",
				       opt.name, n, strerror(report->err),
				       report->injected ? "" : ", and nothing had failed");
			break;
		case CASE_LOST:
			lost += v.lost;
			losses++;
			if (opt.control) {
				ok += report->injected;
				continue;
			}
			/* fall through */
		default:
			ksft_print_msg("%s, allocation %u%s: %s\n", opt.name, n,
				       report->injected ? "" : " (not reached)", v.why);
			break;
		}
		bad++;
	}

	printf("# fault: %s: injected=%u failed=%u (", opt.name, injected, failed);
	for (i = 0, n = 0; i < MAX_ERRNO; i++)
		if (counts[i])
			printf("%s%s %u", n++ ? ", " : "", strerrorname_np(i), counts[i]);
	printf(") right=%u lost=%zu\n", ok, lost);
	if (!injected)
		ksft_print_msg("%s: nothing was injected: this has seen nothing\n", opt.name);
	if (opt.control && !losses)
		ksft_print_msg("%s: nothing was lost without protection\n", opt.name);
	return bad || !injected || (opt.control && !losses) ? KSFT_FAIL : KSFT_PASS;
}

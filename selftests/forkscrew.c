// SPDX-License-Identifier: GPL-2.0
/*
 * forkscrew: one read in flight, one fork, one write, in a fixed order.
 *
 * A read with O_DIRECT hands user memory to a device. A fork while it is in flight
 * write-protects the memory; the next write by the parent moves the parent to a copy, and
 * the device fills the page that was left behind. Every case here checks that the data came,
 * that the child has its snapshot of before, and that the parent's own writes are there.
 *
 * A target is a file or directory on a file system with O_DIRECT (an NFS mount with a delay
 * on the wire), or /dev/pin_guard_dma.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "forkscrew.h"
#include "pin_guard_dma.h"

#define DMA_DEVICE	"/dev/pin_guard_dma"
#define SHORTEST_MS	15	/* a shorter read ends before a fork can hit it */

static struct {
	bool control, report, demo, fill, filled, sparse, eof;
	unsigned int jobs, runs, limit_s, delay_ms;
	unsigned int mode;
	const char *only_case, *only_io;
} opt = { .jobs = 4, .runs = 1, .limit_s = 300, .mode = PIN_GUARD_DMA_PIN };

static struct job {
	const struct fork_case *c;
	const struct io_kind *io;
	const struct target *target;
} *jobs;

/* The four kinds of memory and four of I/O. */
static const struct fork_case demo_cases[] = {
	{ "fork", &mem_anon, LOSES, true, { READ, FORK, TOUCH } },
	{ "thp_fork", &mem_thp, LOSES, true, { READ, FORK, TOUCH } },
	{ "huge_fork", &mem_hugetlb, LOSES, true, { READ, FORK, TOUCH } },
	{ "filepriv_fork", &mem_file, LOSES, true, { READ, FORK, TOUCH } },
};

static const char * const demo_io[] = { "pread", "preadv", "libaio", "io_uring" };

/* Targets */

static void fill_file(const struct target *t)
{
	int fd = open(t->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	unsigned char content[PAGE];
	bool right = fd >= 0 && !ftruncate(fd, t->size);
	size_t at, len, i;

	for (at = 0; at < t->size && right; at += len) {
		len = t->size - at < PAGE ? t->size - at : PAGE;
		if (t->sparse && file_hole(at))
			continue;
		for (i = 0; i < len; i++)
			content[i] = byte_of_target(t, at + i);
		right = pwrite(fd, content, len, at) == (ssize_t)len;
	}
	if (!right || fsync(fd))
		ksft_exit_fail_msg("%s: %s\n", t->path, strerror(errno));
	close(fd);
}

static void file_by_options(struct target *t)
{
	t->size = opt.eof ? SHORT_BYTES : FILE_BYTES;
	t->sparse = opt.sparse;
}

/* Returns the reason why the target cannot be used, or NULL. */
static const char *target_open(struct target *t, const char *path)
{
	static char why[200];
	double latency;
	struct stat st;
	char *name;

	memset(t, 0, sizeof(*t));
	t->path = path;
	t->fd = -1;
	t->mode = opt.mode;
	t->delay_ms = opt.delay_ms;
	if (!stat(path, &st) && S_ISCHR(st.st_mode)) {
		t->dma = true;
		t->latency_ms = PIN_GUARD_DMA_HELD;
		t->size = SIZE_MAX;
		return NULL;
	}
	file_by_options(t);
	if (S_ISDIR(st.st_mode)) {
		if (asprintf(&name, "%s/forkscrew.%d", path, getpid()) < 0)
			return "no memory";
		t->path = name;
	}
	if (!opt.filled)
		fill_file(t);
	t->fd = open(t->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (t->fd < 0) {
		snprintf(why, sizeof(why), "open with O_DIRECT: %s", strerror(errno));
		return why;
	}
	if (S_ISDIR(st.st_mode))
		unlink(t->path);
	latency = read_latency(t);
	if (!t->delay_ms)
		t->delay_ms = latency / 4;
	/* With something for what the reads above took besides. */
	t->latency_ms = latency * 3 / 4;
	ksft_print_msg("%s: a read takes %.1f ms, the fork comes after %u ms\n", path, latency,
		       t->delay_ms);
	if (latency < SHORTEST_MS) {
		snprintf(why, sizeof(why), "a read takes %.1f ms only: put a delay in its way",
			 latency);
		return why;
	}
	return NULL;
}

/* Jobs */

static void job_run(unsigned int i)
{
	fork_case_run(jobs[i].c, jobs[i].io, jobs[i].target, opt.control);
}

static bool case_selected(const struct fork_case *c, const struct io_kind *io)
{
	if (!case_wanted("%s %s", io->name, c->name))
		return false;
	if (opt.only_case && strcmp(opt.only_case, c->name))
		return false;
	if (opt.only_io)
		return !strcmp(opt.only_io, io->name);
	return c->every_io || io == io_kind_by_name("pread") || io == io_kind_by_name("dma");
}

static unsigned int jobs_add(unsigned int at, const struct fork_case *c,
			     const struct io_kind *io, const struct target *t)
{
	unsigned int i;

	for (i = at; jobs && i < at + opt.runs; i++) {
		jobs[i].c = c;
		jobs[i].io = io;
		jobs[i].target = t;
	}
	return opt.runs;
}

/* Fills the jobs if they are there, and counts them. */
static unsigned int jobs_list(const struct target *targets, unsigned int nr)
{
	unsigned int i, c, io, n = 0;

	for (i = 0; i < nr; i++) {
		if (opt.demo && !targets[i].dma) {
			for (c = 0; c < ARRAY_SIZE(demo_cases); c++)
				for (io = 0; io < ARRAY_SIZE(demo_io); io++)
					if (case_wanted("%s %s", demo_io[io], demo_cases[c].name))
						n += jobs_add(n, &demo_cases[c],
							      io_kind_by_name(demo_io[io]), &targets[i]);
			continue;
		}
		for (io = 0; io < nr_io_kinds; io++) {
			if (io_kinds[io].dma != targets[i].dma)
				continue;
			for (c = 0; c < nr_fork_cases; c++)
				if (case_selected(&fork_cases[c], &io_kinds[io]))
					n += jobs_add(n, &fork_cases[c], &io_kinds[io],
						      &targets[i]);
		}
	}
	return n;
}

/* Reports */

static void report_test(unsigned int i, const struct verdict *v)
{
	const struct job *j = &jobs[i];
	bool loss_awaited = opt.control && j->c->fate != KEEPS && !j->io->pins;
	const char *io = j->io->name, *name = j->c->name;

	switch (v->outcome) {
	case CASE_SKIPPED:
		ksft_print_msg("%s %s: %s\n", io, name, v->why);
		ksft_test_result_skip("%s %s\n", io, name);
		return;
	case CASE_PASSED:
		if (loss_awaited && j->target->dma)
			break;	/* by a plain reference: no kernel keeps that */
		if (loss_awaited) {
			ksft_print_msg("%s %s: this kernel keeps the data by itself\n", io, name);
			ksft_test_result_skip("%s %s\n", io, name);
		} else {
			ksft_test_result_pass("%s %s\n", io, name);
		}
		return;
	case CASE_LOST:
		if (loss_awaited) {
			ksft_print_msg("%s %s: lost %zu of %zu bytes\n", io, name, v->lost,
				       v->bytes);
			ksft_test_result_pass("%s %s\n", io, name);
			return;
		}
		break;
	default:
		break;
	}
	ksft_print_msg("%s %s: lost %zu of %zu bytes; %s\n", io, name, v->lost, v->bytes, v->why);
	ksft_test_result_fail("%s %s\n", io, name);
}

/* One line per kind of memory and I/O: what a script can read. */
static void report_machine(unsigned int i, const struct verdict *v)
{
	static unsigned int runs, lost_runs, skipped, failed;
	static size_t lost, bytes;
	static unsigned int seen;
	static char why[400];
	const struct job *j = &jobs[i];

	switch (v->outcome) {
	case CASE_PASSED:
	case CASE_LOST:
		runs++;
		bytes += v->bytes;
		lost += v->lost;
		lost_runs += v->outcome == CASE_LOST;
		break;
	case CASE_SKIPPED:
		skipped++;
		snprintf(why, sizeof(why), "%s", v->why);
		break;
	default:
		failed++;
		ksft_cnt.ksft_fail++;
		snprintf(why, sizeof(why), "%s", v->why);
		break;
	}
	if (++seen < opt.runs)
		return;
	printf("report case=%s mem=%s io=%s lost_bytes=%zu bytes=%zu lost_runs=%u runs=%u skipped=%u failed=%u reason=\"%s\"\n",
	       j->c->name, j->c->mem->name, j->io->name, lost, bytes, lost_runs, runs, skipped,
	       failed, why);
	runs = lost_runs = skipped = failed = seen = 0;
	lost = bytes = 0;
	why[0] = 0;
}

static void __noreturn usage(int status)
{
	printf("Usage: forkscrew [options] TARGET...\n"
	       "TARGET: a file or directory on a file system with O_DIRECT, or " DMA_DEVICE "\n"
	       "  -P, --protected     what can be lost must be kept (default)\n"
	       "  -C, --control       without protection: what can be lost must be lost\n"
	       "  -r, --report        a machine-readable line per case, memory and I/O\n"
	       "  -D, --demo          only fork, with the memory and I/O of the demo\n"
	       "  -n, --runs N        run each case N times\n"
	       "  -m, --mode MODE     of the device: get (implies -C), window, pin\n"
	       "  -c, --case NAME     only this case\n"
	       "  -i, --io NAME       only this kind of I/O\n"
	       "  -j, --jobs N        cases at a time (%u)\n"
	       "  -d, --delay MS      from submission to fork (a quarter of a read's latency)\n"
	       "  -t, --limit S       a case that takes longer has failed (%u)\n"
	       "  -F, --fill          only write the file TARGET, which is quick without a delay\n"
	       "  -f, --filled        TARGET is such a file\n"
	       "  -s, --sparse        the file has holes\n"
	       "  -e, --eof           the file has %lu bytes, and most reads go past its end\n"
	       "  -l, --list          the cases\n", opt.jobs, opt.limit_s, SHORT_BYTES);
	exit(status);
}

static unsigned int number(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!*text || *end || !n || n > 1000000)
		usage(KSFT_FAIL);
	return n;
}

static unsigned int mode_by_name(const char *name)
{
	static const char * const names[] = { "get", "window", "pin" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], name))
			return i;
	usage(KSFT_FAIL);
}

static void list(void)
{
	unsigned int i;

	for (i = 0; i < nr_fork_cases; i++)
		printf("%-24s %-14s %s\n", fork_cases[i].name, fork_cases[i].mem->name,
		       fork_cases[i].fate == KEEPS ? "harmless" : "loses data unprotected");
	exit(0);
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "protected", no_argument, NULL, 'P' },
		{ "control", no_argument, NULL, 'C' },
		{ "report", no_argument, NULL, 'r' },
		{ "demo", no_argument, NULL, 'D' },
		{ "runs", required_argument, NULL, 'n' },
		{ "mode", required_argument, NULL, 'm' },
		{ "case", required_argument, NULL, 'c' },
		{ "io", required_argument, NULL, 'i' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "delay", required_argument, NULL, 'd' },
		{ "limit", required_argument, NULL, 't' },
		{ "fill", no_argument, NULL, 'F' },
		{ "filled", no_argument, NULL, 'f' },
		{ "sparse", no_argument, NULL, 's' },
		{ "eof", no_argument, NULL, 'e' },
		{ "list", no_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int o;

	while ((o = getopt_long(argc, argv, "PCrDn:m:c:i:j:d:t:Ffselh", longs, NULL)) != -1) {
		switch (o) {
		case 'P':
			opt.control = false;
			break;
		case 'C':
			opt.control = true;
			break;
		case 'r':
			opt.report = true;
			break;
		case 'D':
			opt.demo = true;
			break;
		case 'n':
			opt.runs = number(optarg);
			break;
		case 'm':
			opt.mode = mode_by_name(optarg);
			opt.control |= opt.mode == PIN_GUARD_DMA_GET;
			break;
		case 'c':
			opt.only_case = optarg;
			break;
		case 'i':
			opt.only_io = optarg;
			break;
		case 'j':
			opt.jobs = number(optarg);
			break;
		case 'd':
			opt.delay_ms = number(optarg);
			break;
		case 't':
			opt.limit_s = number(optarg);
			break;
		case 'F':
			opt.fill = true;
			break;
		case 'f':
			opt.filled = true;
			break;
		case 's':
			opt.sparse = true;
			break;
		case 'e':
			opt.eof = true;
			break;
		case 'l':
			list();
			break;
		default:
			usage(o == 'h' ? 0 : KSFT_FAIL);
		}
	}
}

int main(int argc, char **argv)
{
	static char device[] = DMA_DEVICE, *devices[] = { device };
	struct target *targets;
	struct cases cases;
	const char *why;
	unsigned int i, n;

	options(argc, argv);
	argv += optind;
	argc -= optind;
	if (opt.fill && argc == 1) {
		struct target file = { .path = argv[0] };

		file_by_options(&file);
		fill_file(&file);
		return 0;
	}
	if (!opt.report)
		ksft_print_header();
	if (!argc) {
		if (access(DMA_DEVICE, R_OK | W_OK))
			ksft_exit_skip("no target given, and no %s\n", DMA_DEVICE);
		argv = devices;
		argc = 1;
	}
	targets = calloc(argc, sizeof(*targets));
	for (i = 0; i < (unsigned int)argc; i++) {
		why = target_open(&targets[i], argv[i]);
		if (why)
			ksft_exit_skip("%s: %s\n", argv[i], why);
	}

	n = jobs_list(targets, argc);
	if (!n)
		ksft_exit_fail_msg("no such case\n");
	jobs = calloc(n, sizeof(*jobs));
	if (!jobs)
		ksft_exit_fail_msg("no memory\n");
	jobs_list(targets, argc);

	cases = (struct cases){
		.nr = n, .at_once = opt.jobs, .limit_s = opt.limit_s, .run = job_run,
		.report = opt.report ? report_machine : report_test,
	};
	if (opt.report) {
		setvbuf(stdout, NULL, _IOLBF, 0);
		cases_run(&cases);
		return ksft_cnt.ksft_fail ? KSFT_FAIL : KSFT_PASS;
	}
	ksft_set_plan(n);
	cases_run(&cases);
	ksft_finished();
}

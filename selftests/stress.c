// SPDX-License-Identifier: GPL-2.0
/* What the two stress tests share: files, a buffer, and a thread that forks all the time. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"
#include "stress.h"

#define GRACE_S		60	/* past the time asked for: a read hangs */

unsigned char stress_byte(unsigned int file, size_t offset)
{
	uint64_t word = (offset / 8 + 1 + ((uint64_t)file << 32)) * 0x9e3779b97f4a7c15ULL;

	return word >> offset % 8 * 8 & 0x7f;
}

unsigned char stress_before(size_t offset)
{
	return 0x80 | (offset * 7 & 0x7f);
}

static void stress_fail(struct stress *s, const char *fmt, ...)
{
	va_list args;

	if (atomic_fetch_add(&s->lost, 1))
		return;
	va_start(args, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, args);
	va_end(args);
	atomic_store(&s->stop, true);
}

void stress_read(struct stress *s, unsigned int file, size_t offset, unsigned char *to)
{
	ssize_t n = pread(s->fd[file], to, s->piece, offset);

	if (n != (ssize_t)s->piece)
		ksft_exit_fail_msg("read of %zu bytes at %zu of file %u: came %zd, %s\n", s->piece,
				   offset, file, n, n < 0 ? strerror(errno) : "short");
	atomic_fetch_add(&s->reads, 1);
}

void stress_compare(struct stress *s, unsigned int file, size_t offset,
		    const unsigned char *came)
{
	size_t i, at, first = 0, wrong = 0;

	for (i = 0; i < s->piece; i++) {
		if (came[i] == stress_byte(file, offset + i))
			continue;
		if (!wrong++)
			first = i;
		/* A loss leaves the content of before. */
		if (!(came[i] & 0x80))
			atomic_store(&s->strange, true);
	}
	if (!wrong)
		return;
	at = (unsigned long)(came + first) % PAGE;
	stress_fail(s,
		    "file %u offset %zu: expected 0x%02x, came 0x%02x (%s) at byte %zu of page %zu of the buffer; lost %zu of %zu bytes after %lu reads, %lu forks",
		    file, offset + first, stress_byte(file, offset + first), came[first],
		    came[first] & 0x80 ? "of before the read" : "of another read", at,
		    (came + first - s->buffer + s->align) / PAGE, wrong, s->piece, s->reads,
		    s->forks);
}

/* Nothing else of ours is large enough to have one. */
static bool have_thp(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	long kb = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonHugePages: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb >= (long)(HUGE_SIZE >> 10);
}

/* The memory for every worker's piece, in one buffer. */
static const char *map_buffer(struct stress *s)
{
	size_t size = s->align + s->workers * s->piece;
	bool hugetlb = !strcmp(s->memory, "hugetlb");
	unsigned char *p;

	size = (size + 2 * HUGE_SIZE - 1) & ~(HUGE_SIZE - 1);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | (hugetlb ? MAP_HUGE : 0),
		 -1, 0);
	if (p == MAP_FAILED)
		return hugetlb ? "no free huge page: see /proc/sys/vm/nr_hugepages" : "mmap failed";
	if (!hugetlb)
		p = (unsigned char *)(((unsigned long)p + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	if (!strcmp(s->memory, "thp")) {
		if (madvise(p, HUGE_SIZE, MADV_HUGEPAGE))
			return "no transparent huge pages in this kernel";
	} else if (!hugetlb) {
		madvise(p, HUGE_SIZE, MADV_NOHUGEPAGE);
	}
	s->buffer = p + s->align;
	memset(p, 0x80, s->align + s->workers * s->piece);
	if (!strcmp(s->memory, "thp") && !have_thp())
		return "no transparent huge page to be had";
	return NULL;
}

static const char *make_files(struct stress *s, const char *dir)
{
	unsigned char *content = malloc(s->file_bytes);
	unsigned int f;
	size_t i;
	int fd;

	s->fd = calloc(s->files, sizeof(int));
	for (f = 0; f < s->files; f++) {
		char name[4096];

		snprintf(name, sizeof(name), "%s/stress.%d.%u", dir, getpid(), f);
		for (i = 0; i < s->file_bytes; i++)
			content[i] = stress_byte(f, i);
		fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (fd < 0 || write(fd, content, s->file_bytes) != (ssize_t)s->file_bytes ||
		    fsync(fd))
			ksft_exit_fail_msg("%s: %s\n", name, strerror(errno));
		close(fd);
		s->fd[f] = open(name, O_RDONLY | O_DIRECT);
		unlink(name);
		if (s->fd[f] < 0)
			return "no O_DIRECT on this file system";
	}
	free(content);
	return NULL;
}

static void *forker(void *arg)
{
	struct stress *s = arg;
	unsigned int n = 0;
	pid_t pid;

	while (!atomic_load(&s->stop)) {
		/* Children of different ages: the shortest is gone before the next write. */
		struct timespec age = { .tv_nsec = n++ % 4 * 500000 };

		pid = fork();
		if (!pid) {
			if (age.tv_nsec)
				nanosleep(&age, NULL);
			_exit(0);
		}
		if (pid < 0) {
			/* A pinned huge page needs another for the child. */
			if (errno != ENOMEM || strcmp(s->memory, "hugetlb"))
				ksft_exit_fail_msg("fork: %s\n", strerror(errno));
			atomic_fetch_add(&s->forks_refused, 1);
			continue;
		}
		waitpid(pid, NULL, 0);
		atomic_fetch_add(&s->forks, 1);
	}
	return NULL;
}

static void *timer(void *arg)
{
	struct stress *s = arg;
	struct timespec nap = { .tv_nsec = 20000000 };
	unsigned int naps;

	for (naps = 0; naps < 50 * s->seconds && !atomic_load(&s->stop); naps++)
		nanosleep(&nap, NULL);
	atomic_store(&s->stop, true);
	return NULL;
}

static void stress_run(struct stress *s, const char *dir, void (*round)(struct stress *s))
{
	const char *why = map_buffer(s) ?: make_files(s, dir);
	pthread_t threads[2];

	if (why) {
		ksft_print_msg("%s %s: %s\n", dir, s->memory, why);
		ksft_test_result_skip("%s %s\n", dir, s->memory);
		return;
	}
	atomic_store(&s->stop, false);
	atomic_store(&s->lost, 0);
	atomic_store(&s->strange, false);
	s->reads = s->forks = s->forks_refused = 0;
	alarm(s->seconds + GRACE_S);
	if (pthread_create(&threads[0], NULL, forker, s) ||
	    pthread_create(&threads[1], NULL, timer, s))
		ksft_exit_fail_msg("no threads\n");
	round(s);
	atomic_store(&s->stop, true);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	alarm(0);

	ksft_print_msg("%s %s: %lu reads, %lu forks, %lu forks refused\n", dir, s->memory, s->reads,
		       s->forks, s->forks_refused);
	if (s->lost)
		ksft_print_msg("%s\n", s->why);
	if (s->strange)
		ksft_print_msg("data of another read\n");
	if (!s->reads || !s->forks || s->strange) {
		ksft_test_result_fail("%s %s\n", dir, s->memory);
	} else if (s->control && !s->lost) {
		ksft_print_msg("no loss in %u s: this kernel keeps the data by itself\n",
			       s->seconds);
		ksft_test_result_skip("%s %s\n", dir, s->memory);
	} else {
		ksft_test_result(s->control == !!s->lost, "%s %s\n", dir, s->memory);
	}
}

static void __noreturn usage(const struct stress *s, const char *self, int status)
{
	printf("Usage: %s [options] DIRECTORY...\n"
	       "DIRECTORY: on a file system with O_DIRECT, for files of its own\n"
	       "  -C, --control   without protection: data must be lost\n"
	       "  -w WORKERS      threads that read (%u)\n"
	       "  -a ALIGN        of the buffer, from a page's start (%zu)\n"
	       "  -b BYTES        that a worker reads at once (%zu)\n"
	       "  -f FILES        (%u)\n"
	       "  -s BYTES        size of a file (%zu)\n"
	       "  -t SECONDS      (%u)\n"
	       "  -m MEMORY       of the buffer: anon, thp, hugetlb (%s)\n",
	       self, s->workers, s->align, s->piece, s->files, s->file_bytes, s->seconds, s->memory);
	exit(status);
}

int stress_main(int argc, char **argv, struct stress *s, void (*round)(struct stress *s))
{
	static const struct option longs[] = {
		{ "control", no_argument, NULL, 'C' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int o;

	while ((o = getopt_long(argc, argv, "Cw:a:b:f:s:t:m:h", longs, NULL)) != -1) {
		switch (o) {
		case 'C':
			s->control = true;
			break;
		case 'w':
			s->workers = atoi(optarg);
			break;
		case 'a':
			s->align = atoi(optarg);
			break;
		case 'b':
			s->piece = atoi(optarg);
			break;
		case 'f':
			s->files = atoi(optarg);
			break;
		case 's':
			s->file_bytes = atoi(optarg);
			break;
		case 't':
			s->seconds = atoi(optarg);
			break;
		case 'm':
			s->memory = optarg;
			break;
		default:
			usage(s, argv[0], o == 'h' ? 0 : KSFT_FAIL);
		}
	}
	if (!s->workers || s->workers > MAX_WORKERS || !s->piece || s->align >= PAGE || !s->files ||
	    s->workers * s->piece > s->file_bytes || s->workers * s->piece > HUGE_SIZE - PAGE ||
	    !s->seconds)
		usage(s, argv[0], KSFT_FAIL);

	ksft_print_header();
	if (optind == argc)
		ksft_exit_skip("no directory given\n");
	ksft_set_plan(argc - optind);
	for (; optind < argc; optind++)
		stress_run(s, argv[optind], round);
	ksft_finished();
}

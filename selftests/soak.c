// SPDX-License-Identifier: GPL-2.0
/*
 * soak: reads and writes in flight, raced by forks and by all that may happen to memory; every
 * byte checked. See soak.h for the rules.
 *
 * A target is a directory on a file system with O_DIRECT, or /dev/pin_guard_dma.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pin_guard_dma.h"
#include "soak.h"

#define FORKERS		2
#define DISTURBERS	2
#define GRACE_S		300	/* past the time asked for: something hangs */
#define MAX_LINES	10	/* about losses */
#define PROGRESS_S	10

struct soak soak = { .seconds = 10, .submitters = 4, .align = 1,
		     .mode = PIN_GUARD_DMA_PIN };

const char * const event_names[NR_EVENTS] = {
	[READS] = "reads", [WRITES] = "writes", [BYTES] = "bytes",
	[INTERRUPTED] = "interrupted", [FORKS] = "forks",
	[FORKS_REFUSED] = "forks_refused", [CHILD_SNAPSHOTS] = "child_snapshots",
	[CHILD_WRITES] = "child_writes", [CHILD_READS] = "child_reads",
	[CHILD_EXITS] = "child_exits", [CHILD_EXECS] = "child_execs", [TOUCHES] = "touches",
	[PVM_READS] = "pvm_reads", [PAGEOUTS] = "pageouts", [COLLAPSES] = "collapses",
	[MREMAPS] = "mremaps", [MPROTECTS] = "mprotects", [MUNMAPS] = "munmaps",
	[DONTNEEDS] = "dontneeds", [RWPS] = "rwps", [HANDOVERS] = "handovers",
};

uint64_t random_seed(unsigned int thread)
{
	return (soak.seed + thread + 1) * 0x9e3779b97f4a7c15ULL | 1;
}

unsigned long random_below(uint64_t *state, unsigned long n)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return n ? (*state >> 16) % n : 0;
}

void nap(unsigned long us)
{
	struct timespec t = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

void report_loss(const char *fmt, ...)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	char line[1200];
	va_list args;

	if (soak.control)
		atomic_store(&soak.stop, true);
	if (atomic_fetch_add(&soak.lost, 1) >= (soak.control ? 1 : MAX_LINES))
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	pthread_mutex_lock(&lock);
	ksft_print_msg("lost: %s\n", line);
	fflush(stdout);
	pthread_mutex_unlock(&lock);
}

static int file_make(unsigned int serial)
{
	uint64_t *content = malloc(FILE_SIZE);
	char name[4096];
	size_t i;
	int fd;

	snprintf(name, sizeof(name), "%s/soak.%d.file%u", soak.path, getpid(), serial);
	for (i = 0; i < FILE_SIZE; i += 8)
		content[i / 8] = stamp(STAMP_FILE, serial, i);
	fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0 || write(fd, content, FILE_SIZE) != (ssize_t)FILE_SIZE || fsync(fd))
		ksft_exit_fail_msg("%s: %s\n", name, strerror(errno));
	close(fd);
	free(content);
	fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
	unlink(name);
	if (fd < 0)
		ksft_exit_skip("%s: no O_DIRECT: %s\n", soak.path, strerror(errno));
	return fd;
}

static void print_progress(unsigned int seconds)
{
	ksft_print_msg("%u s: reads=%lu writes=%lu forks=%lu lost=%lu\n", seconds,
		       soak.count[READS], soak.count[WRITES], soak.count[FORKS], soak.lost);
	fflush(stdout);
}

static bool possible(enum event e)
{
	return !(e == RWPS && soak.rwp_fd < 0) && !(e == HANDOVERS && soak.move_fd < 0);
}

/* The line that soak.sh adds up. */
static void print_counts(unsigned int seconds)
{
	unsigned int i;

	ksft_print_msg("counts: seconds=%u", seconds);
	for (i = 0; i < NR_EVENTS; i++)
		if (possible(i))
			printf(" %s=%lu", event_names[i], soak.count[i]);
	printf(" lost=%lu\n", soak.lost);
	fflush(stdout);
}

static void hangs(int signal)
{
	static const char text[] = "# not done long after the time that was asked for\n";

	_exit(write(STDOUT_FILENO, text, sizeof(text) - 1) < 0 ? signal : KSFT_FAIL);
}

static void run(void)
{
	pthread_t threads[MAX_SUBMITTERS + FORKERS + DISTURBERS];
	unsigned int n = soak.submitters + FORKERS + DISTURBERS, i;
	time_t start = time(NULL), end = start + soak.seconds, report = start + PROGRESS_S;

	signal(SIGALRM, hangs);
	alarm(soak.seconds + GRACE_S);
	for (i = 0; i < n; i++) {
		void *(*f)(void *) = i < soak.submitters ? submitter :
				     i < soak.submitters + FORKERS ? forker : disturber;

		if (pthread_create(&threads[i], NULL, f, (void *)(unsigned long)i))
			ksft_exit_fail_msg("no threads\n");
	}
	while (!stopped() && time(NULL) < end) {
		nap(100000);
		if (atomic_exchange(&soak.child->lost, 0) && !soak.control)
			report_loss("%s", soak.child->why);
		if (time(NULL) >= report) {
			print_progress(time(NULL) - start);
			report = time(NULL) + PROGRESS_S;
		}
	}
	atomic_store(&soak.stop, true);
	for (i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	alarm(0);
	if (atomic_exchange(&soak.child->lost, 0) && !soak.control)
		report_loss("%s", soak.child->why);
	print_counts(time(NULL) - start);
}

static void __noreturn usage(int status)
{
	printf("Usage: soak [options] TARGET\n"
	       "TARGET: a directory on a file system with O_DIRECT, or /dev/pin_guard_dma\n"
	       "  -C, --control     without protection: ends with the first loss, which must come\n"
	       "  -m, --mode MODE   of the device: get (implies -C), window, pin\n"
	       "  -t SECONDS        (%u)\n"
	       "  -j SUBMITTERS     (%u)\n"
	       "  -a ALIGN          of memory, offset and length (%u)\n"
	       "  -s SEED           of the choices, though not of the timing\n",
	       soak.seconds, soak.submitters, soak.align);
	exit(status);
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "control", no_argument, NULL, 'C' },
		{ "mode", required_argument, NULL, 'm' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	static const char * const modes[] = { "get", "window", "pin" };
	unsigned int i;
	int o;

	soak.seed = time(NULL);
	while ((o = getopt_long(argc, argv, "Cm:t:j:a:s:h", longs, NULL)) != -1) {
		switch (o) {
		case 'C':
			soak.control = true;
			break;
		case 'm':
			for (i = 0; i < ARRAY_SIZE(modes) && strcmp(optarg, modes[i]); i++)
				;
			if (i == ARRAY_SIZE(modes))
				usage(KSFT_FAIL);
			soak.mode = i;
			soak.control |= i == PIN_GUARD_DMA_GET;
			break;
		case 't':
			soak.seconds = atoi(optarg);
			break;
		case 'j':
			soak.submitters = atoi(optarg);
			break;
		case 'a':
			soak.align = atoi(optarg);
			break;
		case 's':
			soak.seed = strtoul(optarg, NULL, 0);
			break;
		default:
			usage(o == 'h' ? 0 : KSFT_FAIL);
		}
	}
	if (optind != argc - 1 || !soak.seconds || !soak.submitters ||
	    soak.submitters > MAX_SUBMITTERS || !soak.align || 512 % soak.align)
		usage(KSFT_FAIL);
	soak.path = argv[optind];
}

int main(int argc, char **argv)
{
	struct stat st;

	if (argc == 2 && !strcmp(argv[1], CHILD_EXEC))
		return 0;
	options(argc, argv);
	ksft_print_header();
	ksft_set_plan(1);
	if (stat(soak.path, &st))
		ksft_exit_fail_msg("%s: %s\n", soak.path, strerror(errno));
	soak.dma = S_ISCHR(st.st_mode);
	soak.child = mmap(NULL, sizeof(*soak.child), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!soak.dma) {
		soak.fd = file_make(FILE_OF_PARENT);
		soak.child_fd = file_make(FILE_OF_CHILD);
	}
	soak.rwp_fd = uffd_open(UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC);
	if (soak.rwp_fd < 0)
		ksft_print_msg("no userfaultfd RWP: %s\n", strerror(errno));
	soak.move_fd = uffd_open(UFFD_FEATURE_MOVE);
	if (soak.move_fd < 0)
		ksft_print_msg("no UFFDIO_MOVE: %s\n", strerror(errno));
	areas_make();
	submitters_make();
	ksft_print_msg("%s: seed %lu\n", soak.path, soak.seed);
	run();

	/* By a plain reference of the device: no kernel keeps that. */
	if (!soak.count[READS] || !soak.count[FORKS]) {
		ksft_print_msg("%s: not one read or fork came through\n", soak.path);
		ksft_test_result_fail("%s\n", soak.path);
	} else if (soak.control && !soak.lost && !soak.dma) {
		ksft_print_msg("%s: no loss: this kernel keeps the data by itself\n", soak.path);
		ksft_test_result_skip("%s\n", soak.path);
	} else {
		ksft_test_result(soak.control == !!soak.lost, "%s\n", soak.path);
	}
	ksft_finished();
}

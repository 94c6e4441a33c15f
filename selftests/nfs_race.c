// SPDX-License-Identifier: GPL-2.0
/*
 * nfs_race: two clients of one server. Each replaces files all the time, by a rename or by unlink()
 * and a rename, and reads the files of both with O_DIRECT, many small reads to each page, while
 * it forks.
 *
 * A file is complete before it gets its name, and every word of it says which file it is of, which
 * generation, and where. So a read gives words of one generation, or an errno.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest.h"
#include "page.h"

#define CLIENTS		2
#define FILES		3		/* of each client */
#define FILE_WORDS	(32768 / 8)
#define READERS		16
#define PIECE		512		/* bytes of a read */
#define PIECE_WORDS	(PIECE / 8)
#define READS_PER_OPEN	8
#define GRACE_S		120		/* past the time asked for: something hangs */
#define BEFORE		UINT64_MAX	/* what a word of the buffer is before the read */
#define RESULT		"every read is of one generation\n"

/* What all processes see. */
static struct shared {
	atomic_bool stop;
	atomic_ulong reads, forks, renames, unlinks, none, stale, lost;
	atomic_ulong begun[CLIENTS][FILES];	/* the latest generation */
	atomic_flag said;
	atomic_bool failed;
	char why[300];
} *shared;

static const char *dirs[CLIENTS];
static uint64_t *buffer;			/* READERS pieces */

/* Describes the first failure, and ends the run. */
static void __printf(1, 2) failed(const char *fmt, ...)
{
	va_list args;

	if (!atomic_flag_test_and_set(&shared->said)) {
		va_start(args, fmt);
		vsnprintf(shared->why, sizeof(shared->why), fmt, args);
		va_end(args);
	}
	atomic_store(&shared->failed, true);
	atomic_store(&shared->stop, true);
}

static uint64_t word_of(unsigned int owner, unsigned int file, uint64_t generation, size_t at)
{
	return (uint64_t)(owner * FILES + file + 1) << 56 | generation << 24 | at;
}

static void name_of(char *name, size_t size, unsigned int client, unsigned int owner,
		    const char *what, unsigned int file)
{
	snprintf(name, size, "%s/%s.%u.%u", dirs[client], what, owner, file);
}

/* Gives @file of @client a new generation. */
static void replace(unsigned int client, unsigned int file, bool unlink_first, int flags)
{
	uint64_t generation = atomic_fetch_add(&shared->begun[client][file], 1) + 1;
	char temporary[4096], name[4096];
	static uint64_t *content;
	size_t i;
	int fd;

	if (!content)
		content = aligned_alloc(PAGE, FILE_WORDS * 8);
	for (i = 0; i < FILE_WORDS; i++)
		content[i] = word_of(client, file, generation, i);
	name_of(temporary, sizeof(temporary), client, client, "new", file);
	name_of(name, sizeof(name), client, client, "file", file);
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | flags, 0600);
	if (fd < 0 || write(fd, content, FILE_WORDS * 8) != (ssize_t)FILE_WORDS * 8 ||
	    close(fd)) {
		failed("%s: %s", temporary, strerror(errno));
		return;
	}
	if (unlink_first) {
		if (unlink(name))
			failed("unlink %s: %s", name, strerror(errno));
		atomic_fetch_add(&shared->unlinks, 1);
	}
	if (rename(temporary, name))
		failed("rename to %s: %s", name, strerror(errno));
	atomic_fetch_add(&shared->renames, 1);
}

static bool all_came(void)
{
	return shared->reads && shared->forks && shared->unlinks;
}

static void *replacer(void *arg)
{
	unsigned int client = (unsigned long)arg, n;

	for (n = 0; !atomic_load(&shared->stop); n++)
		replace(client, n % FILES, n & 1, n & 2 ? O_DIRECT : 0);
	return NULL;
}

static void check(const uint64_t *came, unsigned int owner, unsigned int file, size_t at)
{
	uint64_t generation = came[0] >> 24 & UINT32_MAX;
	size_t i, lost = 0;

	for (i = 0; i < PIECE_WORDS; i++)
		lost += came[i] == BEFORE;
	if (lost) {
		atomic_fetch_add(&shared->lost, 1);
		return;
	}
	if (generation > atomic_load(&shared->begun[owner][file]))
		failed("file %u.%u: of a generation to come: %#llx", owner, file,
		       (unsigned long long)came[0]);
	for (i = 0; i < PIECE_WORDS; i++)
		if (came[i] != word_of(owner, file, generation, at + i)) {
			failed("file %u.%u word %zu: expected %#llx, came %#llx", owner, file, at + i,
			       (unsigned long long)word_of(owner, file, generation, at + i),
			       (unsigned long long)came[i]);
			return;
		}
}

/* Whether a file that was replaced may answer so. */
static bool excused(int err)
{
	if (err == ENOENT)
		atomic_fetch_add(&shared->none, 1);
	else if (err == ESTALE)
		atomic_fetch_add(&shared->stale, 1);
	else
		return false;
	return true;
}

struct reader {
	pthread_t thread;
	unsigned int client, n;
};

static void *reader(void *arg)
{
	const struct reader *me = arg;
	uint64_t *slot = buffer + me->n * PIECE_WORDS;
	unsigned int seed = me->client * READERS + me->n, i, j;

	while (!atomic_load(&shared->stop)) {
		unsigned int owner = rand_r(&seed) % CLIENTS, file = rand_r(&seed) % FILES;
		char name[4096];
		int fd;

		name_of(name, sizeof(name), me->client, owner, "file", file);
		fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (fd < 0) {
			if (!excused(errno))
				failed("open %s: %s", name, strerror(errno));
			continue;
		}
		for (i = 0; i < READS_PER_OPEN && !atomic_load(&shared->stop); i++) {
			size_t at = rand_r(&seed) % (FILE_WORDS / PIECE_WORDS) * PIECE_WORDS;
			ssize_t n;

			for (j = 0; j < PIECE_WORDS; j++)
				__atomic_store_n(&slot[j], BEFORE, __ATOMIC_RELAXED);
			n = pread(fd, slot, PIECE, at * 8);
			if (n < 0 && excused(errno))
				break;
			if (n != PIECE) {
				failed("read %s: came %zd, %s", name, n,
				       n < 0 ? strerror(errno) : "short");
				break;
			}
			atomic_fetch_add(&shared->reads, 1);
			check(slot, owner, file, at);
		}
		close(fd);
	}
	return NULL;
}

static void *forker(void *arg)
{
	unsigned int n = 0;

	while (!atomic_load(&shared->stop)) {
		/* Children of different ages. */
		struct timespec age = { .tv_nsec = n++ % 4 * 500000 };
		pid_t pid = fork();

		if (!pid) {
			nanosleep(&age, NULL);
			_exit(0);
		}
		if (pid < 0) {
			failed("fork: %s", strerror(errno));
			break;
		}
		waitpid(pid, NULL, 0);
		atomic_fetch_add(&shared->forks, 1);
	}
	return arg;
}

static void __noreturn client_main(unsigned int client)
{
	struct reader readers[READERS];
	pthread_t threads[2];
	unsigned int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	buffer = mmap(NULL, READERS * PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	if (buffer == MAP_FAILED ||
	    pthread_create(&threads[0], NULL, forker, NULL) ||
	    pthread_create(&threads[1], NULL, replacer, (void *)(unsigned long)client))
		_exit(KSFT_FAIL);
	for (i = 0; i < READERS; i++) {
		readers[i].client = client;
		readers[i].n = i;
		if (pthread_create(&readers[i].thread, NULL, reader, &readers[i]))
			_exit(KSFT_FAIL);
	}
	for (i = 0; i < READERS; i++)
		pthread_join(readers[i].thread, NULL);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	_exit(0);
}

static void remove_files(void)
{
	unsigned int client, file;
	char name[4096];

	for (client = 0; client < CLIENTS; client++)
		for (file = 0; file < FILES; file++) {
			name_of(name, sizeof(name), client, client, "new", file);
			unlink(name);
			name_of(name, sizeof(name), client, client, "file", file);
			unlink(name);
		}
}

int main(int argc, char **argv)
{
	unsigned int seconds = 5, tenths, i, file;
	bool control = false, ended = true;
	pid_t pid[CLIENTS];
	int o, status;

	while ((o = getopt(argc, argv, "Ct:")) != -1) {
		if (o == 'C')
			control = true;
		else if (o == 't')
			seconds = atoi(optarg);
		else
			ksft_exit_fail_msg("usage: nfs_race [-C] [-t SECONDS] MOUNT MOUNT\n");
	}
	ksft_print_header();
	if (argc - optind != CLIENTS)
		ksft_exit_skip("not given: the mount points of two clients\n");
	ksft_set_plan(1);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	for (i = 0; i < CLIENTS; i++)
		dirs[i] = argv[optind + i];
	remove_files();
	for (i = 0; i < CLIENTS; i++)
		for (file = 0; file < FILES; file++)
			replace(i, file, false, 0);

	alarm(seconds * 4 + GRACE_S);
	for (i = 0; i < CLIENTS; i++) {
		pid[i] = fork();
		if (!pid[i])
			client_main(i);
	}
	/* A control ends with its first loss; a slow machine has more time for one of each. */
	for (tenths = 0; tenths < seconds * 40 && !atomic_load(&shared->stop); tenths++) {
		if (all_came() && (tenths >= seconds * 10 ||
				   (control && atomic_load(&shared->lost))))
			break;
		usleep(100000);
	}
	atomic_store(&shared->stop, true);
	for (i = 0; i < CLIENTS; i++)
		if (pid[i] < 0 || waitpid(pid[i], &status, 0) != pid[i] || status)
			ended = false;
	remove_files();

	ksft_print_msg("%lu reads, %lu forks, %lu renames, %lu unlinks; %lu lost; ENOENT %lu times, ESTALE %lu times\n",
		       shared->reads, shared->forks, shared->renames, shared->unlinks, shared->lost,
		       shared->none, shared->stale);
	if (shared->failed || !ended) {
		ksft_print_msg("%s\n", shared->failed ? shared->why : "a client ended badly");
		ksft_test_result_fail(RESULT);
	} else if (!all_came()) {
		ksft_print_msg("no read, fork or unlink came through\n");
		ksft_test_result_fail(RESULT);
	} else if (control && !shared->lost) {
		ksft_print_msg("no loss in %u s: this kernel keeps the data by itself\n", seconds);
		ksft_test_result_skip(RESULT);
	} else {
		ksft_test_result(control == !!shared->lost, RESULT);
	}
	ksft_finished();
}

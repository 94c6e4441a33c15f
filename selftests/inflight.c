// SPDX-License-Identifier: GPL-2.0
/*
 * inflight: reads with O_DIRECT that a script keeps in flight, by what it does to their server.
 *
 * Opens FILE, writes it, and then does what it is told by lines on standard input. Each is
 * answered by a line:
 *
 *	submit	one read per kind of I/O and of memory	submitted READS
 *	fork	a child, and a write to every page		forked MILLISECONDS
 *	rmmod	try to unload pin_guard				rmmod ERRNO
 *	count	the reads in flight				flying READS
 *	wait	until all have ended				ended READS FAILED LOST WRONG ERRNO...
 *
 * LOST are reads that returned all, with the old content in the parent's memory. WRONG are
 * those with anything else that is not the file's. ERRNO lists what FAILED reads failed with.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "case.h"
#include "clock.h"
#include "io_kinds.h"

#define MAX_READS	16
#define MAX_FORKS	8
#define ERESTARTSYS	512		/* not for user space, and yet NFS lets it out */

static const struct memory_kind * const kinds[] = { &mem_anon, &mem_thp };

static struct read {
	struct io io;
	struct memory mem;
} reads[MAX_READS];
static unsigned int nr_reads;

static pid_t children[MAX_FORKS];
static unsigned int nr_children;

static struct target target;

static void fill_file(const char *path)
{
	unsigned char *content = malloc(FILE_BYTES);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t i;

	for (i = 0; i < FILE_BYTES; i++)
		content[i] = byte_of_target(&target, i);
	if (fd < 0 || write(fd, content, FILE_BYTES) != FILE_BYTES || fsync(fd))
		give_up("%s: %s", path, strerror(errno));
	close(fd);
	free(content);
	target.fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (target.fd < 0)
		skip("%s: open with O_DIRECT: %s", path, strerror(errno));
}

/* @names: of kinds of I/O, with commas */
static void make_reads(char *names)
{
	unsigned int i;
	char *name;

	for (name = strtok(names, ","); name; name = strtok(NULL, ",")) {
		const struct io_kind *kind = io_kind_by_name(name);

		for (i = 0; kind && i < ARRAY_SIZE(kinds) && nr_reads < MAX_READS; i++) {
			struct read *r = &reads[nr_reads++];

			r->mem.kind = kinds[i];
			r->io = (struct io){ .kind = kind, .target = &target, .fd = target.fd,
					     .mem = &r->mem };
			kind->setup(&r->io);
		}
	}
	if (!nr_reads)
		give_up("no such kind of I/O");
}

static void submit(void)
{
	unsigned int i;

	for (i = 0; i < nr_reads; i++) {
		memory_map(&reads[i].mem, reads[i].mem.kind, reads[i].io.kind->vectored);
		reads[i].io.kind->submit(&reads[i].io);
	}
	/* The threads are on their way into their reads. */
	usleep(300000);
	printf("submitted %u\n", nr_reads);
}

static unsigned int flying(void)
{
	unsigned int i, n = 0;

	for (i = 0; i < nr_reads; i++)
		n += !reads[i].io.kind->done(&reads[i].io);
	return n;
}

/* A store to every page of the read that changes nothing: so much for its old page. */
static void touch(const struct memory *m)
{
	unsigned char zero = 0;
	size_t page;

	/* Or the compiler sees that the store changes nothing. */
	__asm__ volatile("" : "+r" (zero));
	for (page = 0; page < m->flat; page += PAGE)
		__atomic_fetch_add(&m->base[page], zero, __ATOMIC_RELAXED);
}

static void fork_and_touch(void)
{
	double start = now_ms(), ms;
	unsigned int i;
	pid_t pid;

	if (nr_children == MAX_FORKS)
		give_up("no more than %u forks", MAX_FORKS);
	pid = fork();
	if (pid < 0)
		give_up("fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	ms = now_ms() - start;
	children[nr_children++] = pid;
	for (i = 0; i < nr_reads; i++)
		touch(&reads[i].mem);
	printf("forked %.1f\n", ms);
}

/* Not by rmmod, which asks sysfs first. */
static void try_to_unload(void)
{
	long ret = syscall(SYS_delete_module, "pin_guard", O_NONBLOCK);

	printf("rmmod %s\n", ret ? strerrorname_np(errno) : "0");
}

/* Says what is not the file's: 0, or 'l' for lost, 'w' for wrong. */
static char look(const struct read *r)
{
	const struct iovec *seg = r->mem.seg;
	const unsigned char *came = seg->iov_base;
	size_t margin = (char *)came - r->mem.base, i;
	char found = 0;

	for (i = 0; i < seg->iov_len; i++) {
		if (came[i] == byte_of_target(&target, i))
			continue;
		if (came[i] != byte_before(margin + i)) {
			fprintf(stderr, "%s %s: byte %zu: expected 0x%02x, came 0x%02x\n",
				r->io.kind->name, r->mem.kind->name, i,
				byte_of_target(&target, i), came[i]);
			return 'w';
		}
		found = 'l';
	}
	return found;
}

static const char *errno_name(int err)
{
	return err == ERESTARTSYS ? "ERESTARTSYS" : strerrorname_np(err) ?: "unknown";
}

static void wait_for_all(void)
{
	unsigned int i, failed = 0, lost = 0, wrong = 0;
	char errors[256] = "";

	for (i = 0; i < nr_reads; i++) {
		struct read *r = &reads[i];
		char word[24], found;

		r->io.kind->wait(&r->io);
		if (r->io.result < 0) {
			failed++;
			snprintf(word, sizeof(word), " %s", errno_name(-r->io.result));
			if (!strstr(errors, word))
				strncat(errors, word, sizeof(errors) - strlen(errors) - 1);
		} else if (r->io.result != (long)r->mem.seg->iov_len) {
			fprintf(stderr, "%s %s: expected %zu bytes, came %ld\n", r->io.kind->name,
				r->mem.kind->name, r->mem.seg->iov_len, r->io.result);
			wrong++;
		} else {
			found = look(r);
			lost += found == 'l';
			wrong += found == 'w';
		}
		memory_unmap(&r->mem);
	}
	while (nr_children) {
		kill(children[--nr_children], SIGKILL);
		waitpid(children[nr_children], NULL, 0);
	}
	printf("ended %u %u %u %u%s\n", nr_reads, failed, lost, wrong, errors);
}

int main(int argc, char **argv)
{
	char names[] = "pread,libaio,io_uring", *io = names, line[64];
	int o;

	while ((o = getopt(argc, argv, "i:")) == 'i')
		io = optarg;
	if (o != -1 || optind != argc - 1) {
		printf("Usage: inflight [-i IO,IO...] FILE\n");
		return KSFT_FAIL;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	fill_file(argv[optind]);
	make_reads(io);
	printf("ready %u\n", nr_reads);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "submit\n"))
			submit();
		else if (!strcmp(line, "fork\n"))
			fork_and_touch();
		else if (!strcmp(line, "count\n"))
			printf("flying %u\n", flying());
		else if (!strcmp(line, "rmmod\n"))
			try_to_unload();
		else if (!strcmp(line, "wait\n"))
			wait_for_all();
		else
			give_up("no such command: %s", line);
	}
	return KSFT_PASS;
}

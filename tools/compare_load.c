// SPDX-License-Identifier: GPL-2.0
/*
 * Preloaded into other people's programs by tools/compare. PIN_GUARD_READ=FILE: a thread reads from
 * FILE with O_DIRECT all the time, so that each fork of the program meets a read in flight.
 * PIN_GUARD_FORK=MS: a thread forks every MS milliseconds, so that each read of the program meets
 * forks.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUFFER	(64UL << 10)

static void *reader(void *buffer)
{
	int fd = open(getenv("PIN_GUARD_READ"), O_RDONLY | O_DIRECT | O_CLOEXEC);

	if (fd < 0) {
		perror("PIN_GUARD_READ");
		_exit(1);
	}
	/* In the middle of pages. */
	while (pread(fd, (char *)buffer + 512, BUFFER - 1024, 0) > 0)
		;
	return NULL;
}

static void *forker(void *unused)
{
	unsigned int ms = atoi(getenv("PIN_GUARD_FORK"));
	pid_t child;

	for (;;) {
		/* No handlers: the program knows nothing of this child. */
		child = _Fork();
		if (!child)
			_exit(0);
		if (child > 0)
			waitpid(child, NULL, 0);
		usleep(ms * 1000);
	}
	return NULL;
}

static void start(void *(*thread)(void *), void *arg)
{
	pthread_t id;

	if (pthread_create(&id, NULL, thread, arg))
		abort();
	pthread_detach(id);
}

static void __attribute__((constructor)) load(void)
{
	sigset_t all, old;

	/* Signals are for the program's threads, and its children for themselves. */
	unsetenv("LD_PRELOAD");
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (getenv("PIN_GUARD_READ"))
		start(reader, mmap(NULL, BUFFER, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	if (getenv("PIN_GUARD_FORK"))
		start(forker, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

// SPDX-License-Identifier: GPL-2.0
/*
 * dma_thread: the stress of Red Hat bug 471613 (2008). Workers read neighbouring pieces of a
 * file into one buffer that is not aligned to pages, all at once, while a thread forks. A
 * worker's own page lookup is the write that moves the page away from its neighbour's read.
 */
#include <pthread.h>
#include <stdlib.h>

#include "kselftest.h"
#include "stress.h"

static struct {
	struct stress *s;
	pthread_barrier_t start, end;
	unsigned int file;
	size_t offset;		/* of the first worker's piece */
	bool quit;
} shared;

static void *worker(void *arg)
{
	struct stress *s = shared.s;
	size_t at = (unsigned long)arg * s->piece;

	for (;;) {
		pthread_barrier_wait(&shared.start);
		if (shared.quit)
			return NULL;
		stress_read(s, shared.file, shared.offset + at, s->buffer + at);
		pthread_barrier_wait(&shared.end);
	}
}

static void dma_thread(struct stress *s)
{
	size_t stripe = s->workers * s->piece, i;
	pthread_t threads[MAX_WORKERS];

	shared.s = s;
	shared.quit = false;
	shared.file = 0;
	shared.offset = 0;
	pthread_barrier_init(&shared.start, NULL, s->workers + 1);
	pthread_barrier_init(&shared.end, NULL, s->workers + 1);
	for (i = 0; i < s->workers; i++)
		if (pthread_create(&threads[i], NULL, worker, (void *)i))
			ksft_exit_fail_msg("no threads\n");

	while (!atomic_load(&s->stop)) {
		for (i = 0; i < stripe; i++)
			s->buffer[i] = stress_before(i);
		pthread_barrier_wait(&shared.start);
		pthread_barrier_wait(&shared.end);
		for (i = 0; i < stripe; i += s->piece)
			stress_compare(s, shared.file, shared.offset + i, s->buffer + i);

		shared.offset += stripe;
		if (shared.offset + stripe > s->file_bytes) {
			shared.offset = 0;
			shared.file = (shared.file + 1) % s->files;
		}
	}

	shared.quit = true;
	pthread_barrier_wait(&shared.start);
	for (i = 0; i < s->workers; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&shared.start);
	pthread_barrier_destroy(&shared.end);
}

int main(int argc, char **argv)
{
	struct stress s = {
		.workers = 8, .files = 4, .seconds = 5, .align = 512, .piece = PAGE,
		.file_bytes = 1 << 20, .memory = "anon",
	};

	return stress_main(argc, argv, &s, dma_thread);
}

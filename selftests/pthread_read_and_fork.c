// SPDX-License-Identifier: GPL-2.0
/*
 * pthread_read_and_fork: the customer's reproducer of Red Hat bug 471613. Threads read 512
 * bytes each into one page, each at its own pace, and clear what they read before the next
 * read, while another thread forks.
 */
#include <pthread.h>

#include "kselftest.h"
#include "stress.h"

static struct stress *stress;

static void *reader(void *arg)
{
	struct stress *s = stress;
	size_t me = (unsigned long)arg, n = me, i, offset;
	unsigned char *slot = s->buffer + me * s->piece;
	unsigned int file = me % s->files;

	while (!atomic_load(&s->stop)) {
		offset = n++ * s->piece % (s->file_bytes - s->piece + 1) & ~511UL;
		for (i = 0; i < s->piece; i++)
			slot[i] = stress_before(i);
		stress_read(s, file, offset, slot);
		stress_compare(s, file, offset, slot);
	}
	return NULL;
}

static void read_and_fork(struct stress *s)
{
	pthread_t threads[MAX_WORKERS];
	size_t i;

	stress = s;
	for (i = 0; i < s->workers; i++)
		if (pthread_create(&threads[i], NULL, reader, (void *)i))
			ksft_exit_fail_msg("no threads\n");
	for (i = 0; i < s->workers; i++)
		pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
	struct stress s = {
		.workers = 8, .files = 4, .seconds = 5, .align = 0, .piece = 512,
		.file_bytes = 256 << 10, .memory = "anon",
	};

	return stress_main(argc, argv, &s, read_and_fork);
}

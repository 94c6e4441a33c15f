// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "counters.h"
#include "hold.h"
#include "request.h"

#define SETTLE_US	20000

double cpu_ms(void)
{
	return clock_ms(CLOCK_THREAD_CPUTIME_ID);
}

bool hold_open(struct hold *h)
{
	memset(h, 0, sizeof(*h));
	h->fd[0] = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	return h->fd[0] >= 0;
}

static void hold_forget(struct hold *h)
{
	unsigned int i;

	for (i = 0; i < HOLD_FDS; i++)
		if (h->fd[i] > 0)
			close(h->fd[i]);
	memset(h->fd, 0, sizeof(h->fd));
	h->nr = 0;
}

void hold_begin(struct hold *h, unsigned int ms)
{
	h->end_ms = now_ms() + ms;
}

int hold_submit(struct hold *h, void *addr, size_t len, unsigned int mode)
{
	int *fd = &h->fd[h->nr++ % HOLD_FDS];
	double left = h->end_ms - now_ms();
	uint64_t id;

	if (*fd <= 0)
		*fd = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	if (*fd < 0)
		return errno;
	return submit(*fd, addr, len, mode, PIN_GUARD_DMA_FILL, left > 0 ? left : 0, &id);
}

bool hold_holds(const struct hold *h)
{
	return now_ms() < h->end_ms;
}

bool hold_try(struct hold *h, unsigned int ms)
{
	bool again = !h->ms || !hold_holds(h);

	if (h->ms)
		hold_end(h);
	h->ms = !again ? 0 : h->ms ? 3 * h->ms : ms;
	if (again)
		hold_begin(h, h->ms);
	return again;
}

void hold_end(struct hold *h)
{
	/* They go on when the file is closed, and are not known any more. */
	hold_forget(h);
	while (hold_holds(h))
		usleep(SETTLE_US);
	while (counter("windows_open") > 0)
		usleep(SETTLE_US);
}

void hold_close(struct hold *h)
{
	hold_end(h);
}

static double fork_by(double (*clock)(void), int *err)
{
	double start = clock(), ms;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	ms = clock() - start;
	*err = pid < 0 ? errno : 0;
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return ms;
}

double fork_ms(int *err)
{
	return fork_by(cpu_ms, err);
}

double fork_wall_ms(int *err)
{
	return fork_by(now_ms, err);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double median(double *values, unsigned int nr)
{
	qsort(values, nr, sizeof(*values), compare);
	return values[nr / 2];
}

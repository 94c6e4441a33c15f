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

/* Each open file and each request is one. */
static long users(void)
{
	return number_in("/sys/module/pin_guard_dma/refcnt", "");
}

bool hold_open(struct hold *h)
{
	memset(h, 0, sizeof(*h));
	h->users = users();
	h->fd[0] = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	return h->fd[0] >= 0;
}

int hold_submit(struct hold *h, void *addr, size_t len, unsigned int mode)
{
	int *fd = &h->fd[h->nr++ % HOLD_FDS];
	uint64_t id;

	if (*fd <= 0)
		*fd = open(DMA_DEVICE, O_RDWR | O_CLOEXEC);
	if (*fd < 0)
		return errno;
	return submit(*fd, addr, len, mode, PIN_GUARD_DMA_FILL, PIN_GUARD_DMA_HELD, &id);
}

void hold_end(struct hold *h)
{
	unsigned int i;

	for (i = 0; i < HOLD_FDS; i++)
		if (h->fd[i] > 0)
			close(h->fd[i]);
	memset(h->fd, 0, sizeof(h->fd));
	h->nr = 0;
	while (users() > h->users)
		usleep(SETTLE_US);
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

/* SPDX-License-Identifier: GPL-2.0 */
/* What time it is, and waiting. */
#ifndef _CLOCK_H
#define _CLOCK_H

#include <errno.h>
#include <time.h>

static inline double clock_ms(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static inline double now_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC);
}

/* All of it, whatever signals come. */
static inline void nap_ms(unsigned int ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

#endif /* _CLOCK_H */

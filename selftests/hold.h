/* SPDX-License-Identifier: GPL-2.0 */
/* Requests of /dev/pin_guard_dma that are in flight for a while, however many, and what forks cost. */
#ifndef _HOLD_H
#define _HOLD_H

#include <stdbool.h>
#include <stddef.h>

#include "clock.h"

#define HOLD_FDS	64	/* a request is looked up among those of its open file */
#define HOLD_MS		5000

struct hold {
	int fd[HOLD_FDS];
	unsigned int nr;
	double end_ms;
	unsigned int ms;	/* of hold_try() */
};

/* Returns false and errno. */
bool hold_open(struct hold *h);
void hold_close(struct hold *h);

/* All requests from now on end when @ms are over. */
void hold_begin(struct hold *h, unsigned int ms);
/* Returns 0 or an errno. */
int hold_submit(struct hold *h, void *addr, size_t len, unsigned int mode);
/* Whether all are in flight still. */
bool hold_holds(const struct hold *h);
/*
 * For what takes a machine as long as it takes: while (hold_try(h, ms)) { ... } is run again, with requests
 * that take longer, until they are in flight at its end. At the last time they are, whatever it costs.
 */
bool hold_try(struct hold *h, unsigned int ms);
/* Waits until none is. */
void hold_end(struct hold *h);

/* Of the calling thread */
double cpu_ms(void);

/* A fork in CPU time of this thread; its child does nothing and is gone on return. */
double fork_ms(int *err);
/* The same in wall time, where the matter is who waits */
double fork_wall_ms(int *err);

double median(double *values, unsigned int nr);

#endif /* _HOLD_H */

/* SPDX-License-Identifier: GPL-2.0 */
/* Requests of /dev/pin_guard_dma that are in flight until they are let go, and what forks cost. */
#ifndef _HOLD_H
#define _HOLD_H

#include <stdbool.h>
#include <stddef.h>

#include "clock.h"

#define HOLD_FDS	64	/* a request is looked up among those of its open file */

struct hold {
	int fd[HOLD_FDS];
	unsigned int nr;
	long users;		/* of the driver, besides */
};

/* Returns false and errno. */
bool hold_open(struct hold *h);
/* Returns 0 or an errno. */
int hold_submit(struct hold *h, void *addr, size_t len, unsigned int mode);
/* Lets all go, and waits until the last is over. */
void hold_end(struct hold *h);

/* Of the calling thread */
double cpu_ms(void);

/* A fork in CPU time of this thread; its child does nothing and is gone on return. */
double fork_ms(int *err);
/* The same in wall time, where the matter is who waits */
double fork_wall_ms(int *err);

double median(double *values, unsigned int nr);

#endif /* _HOLD_H */

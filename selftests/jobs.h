/* SPDX-License-Identifier: GPL-2.0 */
/* Tests in processes of their own, some at a time, reported in their order. */
#ifndef _JOBS_H
#define _JOBS_H

#include <stdbool.h>

/* Each function gets the number of the job. */
struct jobs {
	unsigned int nr, at_once, limit_s;
	/* In the job's process: ends it, after saying how it went in memory that is shared. */
	void (*run)(unsigned int i);
	/* Optional: whether no other may run beside it. */
	bool (*alone)(unsigned int i);
	/* The process is gone, or was killed after @limit_s; @why says how. */
	void (*ended)(unsigned int i, bool in_time, const char *why);
	void (*report)(unsigned int i);
};

void jobs_run(const struct jobs *jobs);

#endif /* _JOBS_H */

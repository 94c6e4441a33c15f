/* SPDX-License-Identifier: GPL-2.0 */
/* What a case says. */
#ifndef _CASE_H
#define _CASE_H

#include <stddef.h>

#include "kselftest.h"	/* also for __noreturn and __printf() */

enum outcome {
	CASE_RUNNING,
	CASE_KEPT,	/* every check passed */
	CASE_LOST,	/* the parent's memory lacks data of the read, nothing else is wrong */
	CASE_BAD,	/* another check failed */
	CASE_SKIP,	/* not possible here */
};

struct verdict {
	enum outcome outcome;
	size_t lost;
	size_t bytes;
	char why[400];
};

/* Ends the case process. */
void __noreturn __printf(2, 3) finish(enum outcome outcome, const char *fmt, ...);

void __noreturn finish_with(const struct verdict *v);

#define skip(...)	finish(CASE_SKIP, __VA_ARGS__)
#define bad(...)	finish(CASE_BAD, __VA_ARGS__)

#endif /* _CASE_H */

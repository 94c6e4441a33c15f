/* SPDX-License-Identifier: GPL-2.0 */
/* The cases of a program: the processes that they run in, and how they end. */
#ifndef _CASE_H
#define _CASE_H

#include <stdbool.h>
#include <stddef.h>

#include "kselftest.h"	/* also for __noreturn and __printf() */

enum outcome {
	CASE_RUNNING,
	CASE_PASSED,	/* every check passed */
	CASE_LOST,	/* the memory lacks data of the I/O, nothing else is wrong */
	CASE_FAILED,	/* another check failed */
	CASE_SKIPPED,	/* not possible here */
	CASE_REFUSED,	/* the kernel refused the operation */
	CASE_LATE,	/* the machine was too slow for the case: once more */
};

struct verdict {
	enum outcome outcome;
	size_t lost, bytes;
	char why[400];
};

/* Of the case that this process belongs to, which its reporter reads; NULL in other processes. */
extern struct verdict *verdict;

/*
 * Ends this process of a case: the verdict is that of the case's first process to call this.
 * Without a case it ends the program.
 */
void __noreturn __printf(2, 3) finish(enum outcome outcome, const char *fmt, ...);

#define pass()		finish(CASE_PASSED, "%s", "")
#define skip(...)	finish(CASE_SKIPPED, __VA_ARGS__)
#define give_up(...)	finish(CASE_FAILED, __VA_ARGS__)

#define must(cond, ...) do { if (!(cond)) give_up(__VA_ARGS__); } while (0)

/* Optional: what finish() calls first. Returns the outcome, or not at all. */
extern enum outcome (*on_finish)(enum outcome outcome, const char *why);

/* Cases in processes of their own, some at a time, reported in their order. */
struct cases {
	unsigned int nr, at_once, limit_s;
	/* In the process of case @i: ends it by finish(). */
	void (*run)(unsigned int i);
	/* Optional: whether no other may run beside it. */
	bool (*alone)(unsigned int i);
	/* The process has ended, or was killed after @limit_s, and all that it has left behind. */
	void (*report)(unsigned int i, const struct verdict *v);
};

void cases_run(const struct cases *cases);

/* One by itself. */
struct verdict case_run(void (*run)(unsigned int i), unsigned int limit_s);

/*
 * Whether the case that is reported by this name matches a pattern of PIN_GUARD_CASES, which has
 * one in each line; if that is not set, all are wanted.
 */
bool case_wanted(const char *fmt, ...) __printf(1, 2);

/* Memory that a case shares with its reporter. */
void *shared_memory(size_t size);

#endif /* _CASE_H */

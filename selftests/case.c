// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "case.h"

struct verdict *verdict;
enum outcome (*on_finish)(enum outcome outcome, const char *why);

void finish(enum outcome outcome, const char *fmt, ...)
{
	char why[sizeof(verdict->why)];
	int err = errno;
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	errno = err;
	if (on_finish)
		outcome = on_finish(outcome, why);
	if (!verdict && outcome == CASE_SKIPPED)
		ksft_exit_skip("%s\n", why);
	if (!verdict)
		ksft_exit_fail_msg("%s\n", why);
	/* The first one knows why. */
	if (verdict->outcome == CASE_RUNNING) {
		snprintf(verdict->why, sizeof(verdict->why), "%s", why);
		verdict->outcome = outcome;
	}
	_exit(0);
}

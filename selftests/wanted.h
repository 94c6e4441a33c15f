/* SPDX-License-Identifier: GPL-2.0 */
/* Which of a program's cases are wanted. */
#ifndef _WANTED_H
#define _WANTED_H

#include <stdbool.h>

#include "kselftest.h"	/* for __printf() */

/*
 * Whether the case that is reported by this name matches a pattern of PIN_GUARD_CASES, which has one
 * in each line; if that is not set, all are wanted.
 */
bool case_wanted(const char *fmt, ...) __printf(1, 2);

#endif /* _WANTED_H */

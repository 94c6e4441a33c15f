// SPDX-License-Identifier: GPL-2.0

#include <linux/jiffies.h>

#define CREATE_TRACE_POINTS
#include "events.h"
#include "helpers.h"

/* For Rust: the bindings of the kernel crate do not have the tracepoints of this module. */

void pin_guard_trace_window_open(const void *mm, unsigned long start, unsigned long end)
{
	trace_pin_guard_window_open(mm, start, end);
}

/* @opened: the time at which the window opened, in jiffies */
void pin_guard_trace_window_close(const void *mm, unsigned long start, unsigned long end,
				  unsigned long opened)
{
	if (trace_pin_guard_window_close_enabled())
		trace_pin_guard_window_close(mm, start, end, jiffies_to_msecs(jiffies - opened));
}

void pin_guard_trace_fork(unsigned long start, unsigned long end, unsigned long pages, u64 ns)
{
	trace_pin_guard_fork(start, end, pages, ns);
}

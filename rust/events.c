// SPDX-License-Identifier: GPL-2.0

#define CREATE_TRACE_POINTS
#include "events.h"
#include "helpers.h"

/* The bindings of the kernel crate do not know our tracepoints: one function each. */

void pin_guard_trace_window_open(const void *mm, unsigned long start, unsigned long end)
{
	trace_pin_guard_window_open(mm, start, end);
}

void pin_guard_trace_window_close(const void *mm, unsigned long start, unsigned long end,
				  u64 age_ns)
{
	trace_pin_guard_window_close(mm, start, end, age_ns);
}

void pin_guard_trace_fork(unsigned long start, unsigned long end, unsigned long pages, u64 ns)
{
	trace_pin_guard_fork(start, end, pages, ns);
}

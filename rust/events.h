/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pin_guard

#if !defined(_PIN_GUARD_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _PIN_GUARD_EVENTS_H

#include <linux/tracepoint.h>

/* A window opens on [start, end) of mm. */
TRACE_EVENT(pin_guard_window_open,
	TP_PROTO(const void *mm, unsigned long start, unsigned long end),
	TP_ARGS(mm, start, end),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(unsigned long, start)
		__field(unsigned long, end)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->start = start;
		__entry->end = end;
	),
	TP_printk("mm=%p range=%lx-%lx", __entry->mm, __entry->start, __entry->end)
);

/* The window on [start, end) of mm closes. Its age has the resolution of jiffies. */
TRACE_EVENT(pin_guard_window_close,
	TP_PROTO(const void *mm, unsigned long start, unsigned long end, unsigned int age_ms),
	TP_ARGS(mm, start, end, age_ms),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned int, age_ms)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->start = start;
		__entry->end = end;
		__entry->age_ms = age_ms;
	),
	TP_printk("mm=%p range=%lx-%lx age_ms=%u",
		  __entry->mm, __entry->start, __entry->end, __entry->age_ms)
);

/*
 * A fork copied the VMA [start, end) with pages of its windows pinned. ns is the time that it took
 * to pin the pages, to copy the VMA, and to unpin the pages.
 */
TRACE_EVENT(pin_guard_fork,
	TP_PROTO(unsigned long start, unsigned long end, unsigned long pages, u64 ns),
	TP_ARGS(start, end, pages, ns),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned long, pages)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->pages = pages;
		__entry->ns = ns;
	),
	TP_printk("vma=%lx-%lx pages=%lu ns=%llu",
		  __entry->start, __entry->end, __entry->pages, __entry->ns)
);

#endif /* _PIN_GUARD_EVENTS_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE events
#include <trace/define_trace.h>

/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _PIN_GUARD_BENCH_REFERENCE_H
#define _PIN_GUARD_BENCH_REFERENCE_H

struct page;

/* @pages: room for the pages of the range */
int pin_guard_bench_reference(unsigned long addr, unsigned long len, unsigned int gup_flags,
			      unsigned int loops, struct page **pages);

#endif /* _PIN_GUARD_BENCH_REFERENCE_H */

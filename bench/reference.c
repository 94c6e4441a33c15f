// SPDX-License-Identifier: GPL-2.0
/* What PinGuard is measured against: the same work in C, with a page array that is there already. */

#include <linux/errno.h>
#include <linux/mm.h>

#include "reference.h"

int pin_guard_bench_reference(unsigned long addr, unsigned long len, unsigned int gup_flags,
			      unsigned int loops, struct page **pages)
{
	int want = (offset_in_page(addr) + len + PAGE_SIZE - 1) >> PAGE_SHIFT;

	while (loops--) {
		int got = pin_user_pages_fast(addr, want, gup_flags, pages);

		if (got < 0)
			return got;
		unpin_user_pages(pages, got);
		if (got != want)
			return -EFAULT;
	}
	return 0;
}

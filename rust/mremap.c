// SPDX-License-Identifier: GPL-2.0
/*
 * Reads the argument of move_page_tables(), which hook/remap.rs redirects. The type of the argument
 * is private to mm/.
 */

#include "internal.h"

#include "helpers.h"

notrace struct mm_struct *pin_guard_what_moves(const void *pmc, unsigned long *start,
					       unsigned long *end, unsigned long *to)
{
	const struct pagetable_move_control *move = pmc;

	*start = move->old_addr;
	*end = move->old_end;
	*to = move->new_addr;
	return move->old->vm_mm;
}

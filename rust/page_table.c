// SPDX-License-Identifier: GPL-2.0
/*
 * Reads the page table entry of an address, for hook/present.rs. It is in C because it consists of
 * macros and inline functions, which Rust cannot call.
 */

#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/swap.h>
#include <linux/leafops.h> /* in 7.2 it needs the others */

#include "helpers.h"

static int leaf_kind(softleaf_t leaf, unsigned long *swap)
{
	*swap = leaf.val;
	if (softleaf_is_swap(leaf))
		return PIN_GUARD_SWAP;
	if (softleaf_is_migration(leaf) || softleaf_is_device_exclusive(leaf))
		return PIN_GUARD_ELSEWHERE;
	return PIN_GUARD_ABSENT;
}

/* The caller holds the lock of the entry, so the page stays there. */
static int page_kind(struct page *page)
{
	return PageAnon(page) && !PageAnonExclusive(page) ? PIN_GUARD_SHARED : PIN_GUARD_PRESENT;
}

static int pud_kind(pud_t pud, unsigned long *swap)
{
	/* Only hugetlb has entries here that are not present, and they have the form of a pte. */
	pte_t pte = __pte(pud_val(pud));
	int kind;

	if (pud_present(pud))
		return page_kind(pud_page(pud));
	if (pud_none(pud))
		return PIN_GUARD_ABSENT;
	if (!pte_present(pte))
		return leaf_kind(softleaf_from_pte(pte), swap);
	/* PROT_NONE on x86: follow_pud_mask() does not see the page, and hugetlb_fault() does. */
	kind = page_kind(pte_page(pte));
	return kind == PIN_GUARD_PRESENT ? PIN_GUARD_OUT_OF_REACH : kind;
}

static int pmd_kind(pmd_t pmd, unsigned long *swap)
{
	if (!pmd_present(pmd))
		return pmd_none(pmd) ? PIN_GUARD_ABSENT : leaf_kind(softleaf_from_pmd(pmd), swap);
	return pmd_special(pmd) ? PIN_GUARD_PRESENT : page_kind(pmd_page(pmd));
}

static int pte_kind(pte_t pte, unsigned long *swap)
{
	if (!pte_present(pte))
		return pte_none(pte) ? PIN_GUARD_ABSENT : leaf_kind(softleaf_from_pte(pte), swap);
	return pte_special(pte) ? PIN_GUARD_PRESENT : page_kind(pte_page(pte));
}

/*
 * Stores the state of the page at @addr, of enum pin_guard_entry, in *@kind, and for
 * PIN_GUARD_SWAP the swap entry in *@swap. Returns the size, in bytes, of the naturally aligned
 * range around @addr for which the state holds.
 *
 * The caller holds the mmap lock and the lock of @vma for write, and @vma has an anon_vma, for which
 * retract_page_tables() (mm/khugepaged.c) leaves it alone. So no table goes; one can come when a THP
 * is split. This takes the lock of the entry, because a migration, or code that discards a THP,
 * holds that lock while it clears the entry for a moment.
 *
 * Each of several contiguous entries (arm64: mTHP; hugetlb pages of 64 KiB, 2 MiB, 32 MiB) has its
 * own page, and the same lock as the first one. hugetlb uses the lock of the level that an entry is
 * at, as all others do (huge_pte_lockptr()). So neither needs code of its own.
 */
unsigned long pin_guard_entry(struct vm_area_struct *vma, unsigned long addr, int *kind,
			      unsigned long *swap)
{
	struct mm_struct *mm = vma->vm_mm;
	pgd_t *pgd = pgd_offset(mm, addr);
	spinlock_t *ptl;
	p4d_t *p4d;
	pud_t *pud, pudval;
	pmd_t *pmd, pmdval;
	pte_t *pte;

	*kind = PIN_GUARD_ABSENT;
	if (pgd_none(pgdp_get(pgd)))
		return PGDIR_SIZE;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(p4dp_get(p4d)))
		return P4D_SIZE;
	pud = pud_offset(p4d, addr);
	pudval = pudp_get(pud);
	if (!pud_present(pudval) || pud_leaf(pudval)) {
		ptl = pud_lockptr(mm, pud);
		spin_lock(ptl);
		*kind = pud_kind(pudp_get(pud), swap);
		spin_unlock(ptl);
		return PUD_SIZE;
	}
	pmd = pmd_offset(pud, addr);
	pmdval = pmdp_get_lockless(pmd);
	if (!pmd_present(pmdval) || pmd_leaf(pmdval)) {
		ptl = pmd_lockptr(mm, pmd);
		spin_lock(ptl);
		pmdval = pmdp_get(pmd);
		if (!pmd_present(pmdval) || pmd_leaf(pmdval))
			*kind = pmd_kind(pmdval, swap);
		spin_unlock(ptl);
		/* Otherwise it has been split since, and points to a table. */
		if (!pmd_present(pmdval) || pmd_leaf(pmdval))
			return PMD_SIZE;
	}
	pte = pte_offset_kernel(pmd, addr);
	ptl = pte_lockptr(mm, pmd);
	spin_lock(ptl);
	*kind = pte_kind(ptep_get(pte), swap);
	spin_unlock(ptl);
	return PAGE_SIZE;
}

/* SPDX-License-Identifier: GPL-2.0 */
/* The sizes of pages, which are the system's. */
#ifndef _PAGE_H
#define _PAGE_H

#include <sys/mman.h>
#include <unistd.h>

#define PAGE		((unsigned long)getpagesize())
/* Where each byte is asked: an emulator takes long to divide. */
#define PAGE_SHIFT	__builtin_ctzl(PAGE)
/* A page of page table entries maps so much: the size of a THP, and of a hugetlb page. */
#define HUGE_SIZE	(PAGE / 8 * PAGE)
#define MAP_HUGE	(MAP_HUGETLB | __builtin_ctzl(HUGE_SIZE) << MAP_HUGE_SHIFT)

#endif /* _PAGE_H */

/* SPDX-License-Identifier: GPL-2.0 */
/* The kinds of memory that a read goes to. */
#ifndef _MEMORY_KINDS_H
#define _MEMORY_KINDS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "page.h"

#define MAX_SEGS	4
#define FILE_BYTES	(1UL << 20)	/* no read is longer, but for those of soak and lifetime */

struct memory;

struct memory_kind {
	const char *name;
	unsigned int pages;		/* of the area; 0: a huge page */
	unsigned int read_pages;	/* of a huge page the unvectored read covers; 0: FILE_BYTES */
	bool shared;
	void (*map)(struct memory *m);
};

extern const struct memory_kind mem_anon, mem_anon4, mem_thp, mem_thp_small;
extern const struct memory_kind mem_hugetlb, mem_hugetlb_small;
extern const struct memory_kind mem_file, mem_shm, mem_small;

struct memory {
	const struct memory_kind *kind;
	size_t size;			/* of the area */
	size_t flat;			/* the unvectored read covers so much, less its margins */
	char *base;
	struct iovec seg[MAX_SEGS];	/* the read goes here */
	unsigned int segs;
	size_t hole_start, hole_end;	/* offsets: unmapped while in flight */
	void *mapping;			/* what munmap() needs */
	size_t mapping_size;
};

void memory_map(struct memory *m, const struct memory_kind *kind, bool vectored);
void memory_unmap(struct memory *m);
void memory_move(struct memory *m, char *to);
bool memory_is_swapped(const struct memory *m);

/* The content that the area has before the read; all HUGE_SIZE bytes of it. */
unsigned char byte_before(size_t offset);
const unsigned char *content_before(void);

#endif /* _MEMORY_KINDS_H */

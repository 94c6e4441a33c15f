/* SPDX-License-Identifier: GPL-2.0 */
/*
 * forkscrew: one read in flight, one fork, one write, in a fixed order.
 *
 * forkscrew.c		options, the processes that the cases run in, the report
 * forkscrew_case.c	the cases: tables of steps
 * forkscrew_memory.c	the kinds of memory that a read goes to
 * forkscrew_io.c	the kinds of I/O
 *
 * io_error.c and soak.c have the last one or two as well.
 */
#ifndef _FORKSCREW_H
#define _FORKSCREW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "kselftest.h"	/* also for __noreturn and __printf() */
#include "page.h"

#define ARRAY_LEN(a)	(sizeof(a) / sizeof((a)[0]))
#define MAX_SEGS	4
#define FILE_BYTES	(1UL << 20)	/* no case reads more */
#define SHORT_BYTES	(PAGE + 904)	/* most cases read more */

/* What a case process says. */
enum outcome {
	CASE_RUNNING,
	CASE_KEPT,	/* every check passed */
	CASE_LOST,	/* the parent's memory lacks data of the read, nothing else is wrong */
	CASE_BAD,	/* another check failed */
	CASE_SKIP,	/* not possible here */
};

struct verdict {
	enum outcome outcome;
	size_t lost;
	size_t bytes;
	char why[400];
};

/* Ends the case process. */
void __noreturn __printf(2, 3) finish(enum outcome outcome, const char *fmt, ...);

void __noreturn finish_with(const struct verdict *v);

#define skip(...)	finish(CASE_SKIP, __VA_ARGS__)
#define bad(...)	finish(CASE_BAD, __VA_ARGS__)

/* Memory */

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

double now_ms(void);

/* The content that the area has before the read; all HUGE_SIZE bytes of it. */
unsigned char byte_before(size_t offset);
const unsigned char *content_before(void);

/* I/O */

struct target {
	const char *path;
	bool dma;
	unsigned int mode;		/* enum pin_guard_dma_mode */
	unsigned int delay_ms;		/* from the submission to the fork */
	unsigned int latency_ms;	/* of a read, at least */
	int fd;				/* of the file */
	size_t size;			/* of the file */
	bool sparse;			/* the file has holes */
};

struct io {
	const struct io_kind *kind;
	const struct target *target;
	int fd;
	const struct memory *mem;
	off_t offset;			/* in the file */
	bool write;			/* only the kinds for files */
	uint64_t stamp;			/* of what the device writes, counting; 0: the usual */
	long result;			/* bytes, or -errno; valid once done */
	size_t sent;			/* bytes asked for */
	void *priv;
};

struct io_kind {
	const char *name;
	bool dma;			/* for the device, else for files */
	bool vectored;
	bool pins;			/* the kernel pins the pages by itself */
	bool looks_up;			/* has all pages when submit() returns */
	void (*setup)(struct io *io);	/* before the memory is read; skips what is missing */
	void (*submit)(struct io *io);
	bool (*done)(struct io *io);
	void (*wait)(struct io *io);
	bool (*stray)(struct io *io);	/* after wait(): whether there was another completion */
	int flavour;			/* of a kind that shares its functions */
};

extern const struct io_kind io_kinds[];
extern const unsigned int nr_io_kinds;

const struct io_kind *io_kind_by_name(const char *name);

/* The answer to IORING_OP_ASYNC_CANCEL of the read. */
long uring_cancel(struct io *io);
/* With the read in flight: nobody is told of its end. */
void uring_close(struct io *io);

/* Is this a hole of a sparse file: a page of four, and every other 64 KiB. */
bool file_hole(size_t offset);
/* What byte @offset of the target is. */
unsigned char byte_of_target(const struct target *t, size_t offset);

/* Cases */

enum step {
	STEP_END,
	READ,			/* the submission; the read is in flight from here to the end */
	FORK,			/* the child lives until the read is done */
	CHILD_TOUCH,		/* the child writes to every page */
	CHILD_EXIT,
	VFORK,
	SPAWN,
	SYSTEM,
	TOUCH,			/* the parent writes to every page */
	LOAD,			/* the parent reads every page */
	PVM_READ,		/* process_vm_readv() of the buffer from itself */
	PROC_MEM,		/* as TOUCH, through /proc/self/mem */
	PAGEOUT,
	KSM_MERGE,
	UFFD_WP,
	UFFD_UNWP,
	UFFD_RWP,		/* who touches the memory waits */
	UFFD_UNRWP,
	UFFD_MOVE_PAGES,	/* by UFFDIO_MOVE, which is no mremap() */
	PROTECT_READ,
	PROTECT_NONE,
	UNPROTECT,
	PKEY,			/* a protection key for the memory */
	PKEY_DENY,		/* to this thread */
	PKEY_ALLOW,
	DONTFORK,
	MREMAP,
	MREMAP_APART,		/* in parts, one of which grows and moves twice */
	MREMAP_BACK,		/* the parts come together again */
	UNMAP_HOLE,
	COMPACT,
	COLLAPSE,
	VMSPLICE,
};

#define MAX_STEPS	10

enum fate {
	KEEPS,		/* the data is there, with any kernel */
	LOSES,		/* lost where nothing protects the read */
};

struct fork_case {
	const char *name;
	const struct memory_kind *mem;
	enum fate fate;
	bool every_io;			/* run with every kind of I/O, else with the plain one */
	enum step steps[MAX_STEPS];
};

extern const struct fork_case fork_cases[];
extern const unsigned int nr_fork_cases;

/* Run in the case's own process; the verdict is given through finish(). */
void __noreturn fork_case_run(const struct fork_case *c, const struct io_kind *io,
			      const struct target *target, bool control);

#endif /* _FORKSCREW_H */

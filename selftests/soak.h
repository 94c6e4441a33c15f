/* SPDX-License-Identifier: GPL-2.0 */
/*
 * soak: reads and writes in flight, raced by forks and by all that may happen to memory.
 *
 * soak.c		options, the threads, the report
 * soak_submit.c	the submitters: areas of memory, stamps, and the check of every byte
 * soak_disturb.c	everybody else
 * io_kinds.c		the kinds of I/O
 *
 * The rules, by which a byte that is not the expected one is a lost one:
 *
 * - An area belongs to one submitter. A round of I/O goes to pieces of its *span*; what is around
 *   the pieces, in the pages of the span, only the submitter writes.
 * - Everybody may do, at any time and anywhere, what leaves the content as it is: fork, write a byte
 *   back as it is, read by process_vm_readv(), MADV_PAGEOUT, MADV_COLLAPSE.
 * - What takes pages away or makes them unwritable is done under the area's lock: by others beside
 *   the span, and by the submitter inside it, where its I/O has looked up all its pages
 *   (io_kind.looks_up), and undone before the check. Private pages that were dropped read as zero.
 * - A child has the memory as it was at the fork. It may have old or new bytes of a read that was in
 *   flight then, but they do not change any more, and what it writes or reads is its own.
 *
 * Left out, as a known limit: O_DIRECT writes of private hugetlb memory (see
 * Documentation/administration.rst).
 */
#ifndef _SOAK_H
#define _SOAK_H

#include <pthread.h>
#include <stdatomic.h>

#include "case.h"
#include "io_kinds.h"
#include "uffd.h"

#define AREA_SIZE	(2 * HUGE_SIZE)
#define MAX_SUBMITTERS	16
#define FILE_SIZE	(8UL << 20)

/* What is counted: the summary has all of it. */
enum event {
	READS, WRITES, BYTES, INTERRUPTED,
	FORKS, FORKS_REFUSED, CHILD_SNAPSHOTS, CHILD_WRITES, CHILD_READS, CHILD_EXITS, CHILD_EXECS,
	TOUCHES, PVM_READS, PAGEOUTS, COLLAPSES, MREMAPS, MPROTECTS, MUNMAPS, DONTNEEDS,
	RWPS, HANDOVERS,
	NR_EVENTS
};

#define FIRST_DISTURBANCE	FORKS

/*
 * A word of memory or of a file says where it belongs: its kind, a serial number, and the address
 * or the offset, in the file or the request.
 */
enum stamp {
	STAMP_MEMORY = 0xa,	/* before the I/O */
	STAMP_CHILD = 0xc,	/* written by a child */
	STAMP_DMA = 0xd,	/* by the device, number of the request */
	STAMP_WRITE = 0xe,	/* to be written to a file, or what is there */
	STAMP_FILE = 0xf,	/* of the file that is read */
};

#define SERIAL_MASK	0xffffUL
#define PLACE_MASK	((1UL << 44) - 1)

/* The serial numbers of files and requests, but for those of the submitters */
#define FILE_OF_PARENT	1
#define FILE_OF_CHILD	2

static inline uint64_t stamp(enum stamp kind, unsigned long serial, unsigned long place)
{
	return (uint64_t)kind << 60 | (serial & SERIAL_MASK) << 44 | (place >> 3 & PLACE_MASK);
}

struct area_kind {
	const char *name;
	bool huge;			/* advised for THP */
	bool hugetlb;
	bool file;
	bool shared;
};

struct area {
	const struct area_kind *kind;
	int fd;
	char *base;
	char *elsewhere;		/* as much address space, for mremap() */
	pthread_mutex_t lock;
	char *start, *end;		/* the span: whole pages */
	unsigned int serial;		/* of the last fill */
};

/* The unit of mapping */
static inline size_t area_unit(const struct area *a)
{
	return a->kind->hugetlb ? HUGE_SIZE : PAGE;
}

struct soak {
	const char *path;
	bool control;
	unsigned int seconds, submitters, mode, align;
	uint64_t seed;

	bool dma;
	int fd;				/* to read from */
	int child_fd;			/* a file for the children */
	int rwp_fd, move_fd;		/* of userfaultfd, -1 where the kernel cannot */
	struct area *area;
	unsigned int areas;
	atomic_bool stop;
	atomic_ulong count[NR_EVENTS];
	atomic_ulong lost;
	struct child_report {		/* shared with the children */
		atomic_ulong lost;
		char why[300];
	} *child;
};

extern struct soak soak;
extern const char * const event_names[NR_EVENTS];

static inline void event(enum event e)
{
	atomic_fetch_add_explicit(&soak.count[e], 1, memory_order_relaxed);
}

static inline bool stopped(void)
{
	return atomic_load_explicit(&soak.stop, memory_order_relaxed);
}

/* Each thread has a sequence of its own. */
uint64_t random_seed(unsigned int thread);
unsigned long random_below(uint64_t *state, unsigned long n);
void nap(unsigned long us);

/* One line for each loss, as long as there are not too many. */
void __printf(1, 2) report_loss(const char *fmt, ...);

/* soak_submit.c */
void areas_make(void);
/* Before any thread runs: what is mapped later could come to lie in a hole that somebody made. */
void submitters_make(void);
void *submitter(void *number);

/* Maps a part of an area as it is to be; false if there is no memory. */
bool area_map(struct area *a, size_t offset, size_t len);

/*
 * Takes away all access to pages, which the kernel gives back at the first (userfaultfd RWP).
 * False if nothing has been done.
 */
bool area_protect_rw(char *start, size_t len);
void area_unprotect_rw(char *start, size_t len);

/* soak_disturb.c */
void *forker(void *number);
void *disturber(void *number);

/* Writes a byte to each page as it is, or to some. */
void touch(char *start, char *end, uint64_t *rnd);

/* A child that does nothing, and is gone on return. */
void fork_once(void);

/* For soak --child-exec */
#define CHILD_EXEC	"--child-exec"

#endif /* _SOAK_H */

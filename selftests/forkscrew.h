/* SPDX-License-Identifier: GPL-2.0 */
/*
 * forkscrew: one read in flight, one fork, one write, in a fixed order.
 *
 * forkscrew.c		options, targets, the report
 * forkscrew_case.c	the cases: tables of steps
 */
#ifndef _FORKSCREW_H
#define _FORKSCREW_H

#include <stdbool.h>

#include "case.h"
#include "io_kinds.h"

#define SHORT_BYTES	(PAGE + 904)	/* most cases read more */

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

/* SPDX-License-Identifier: GPL-2.0 */
/* The kinds of I/O, each split into submission and completion. */
#ifndef _IO_KINDS_H
#define _IO_KINDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory_kinds.h"

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
/* How many ms a read of the file takes: the shortest of three. */
double read_latency(const struct target *t);
/* What byte @offset of the target is. */
unsigned char byte_of_target(const struct target *t, size_t offset);

#endif /* _IO_KINDS_H */

/* SPDX-License-Identifier: GPL-2.0 */
/* What the two stress tests share: files, a buffer, and a thread that forks all the time. */
#ifndef _STRESS_H
#define _STRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "page.h"

#define MAX_WORKERS	64

struct stress {
	/* options */
	unsigned int workers, files, seconds;
	size_t align, piece, file_bytes;
	const char *memory;
	bool control;

	/* the run */
	unsigned char *buffer;		/* @align bytes after a page's start */
	int *fd;
	atomic_bool stop;
	atomic_ulong reads, forks, forks_refused;
	atomic_int lost;		/* whoever makes it 1 describes the loss */
	atomic_bool strange;		/* data came that no loss explains */
	char why[300];
};

/*
 * Runs @round in the directories given on the command line, one test each, with the options
 * in @s as defaults. @round does its reads until @s->stop.
 */
int stress_main(int argc, char **argv, struct stress *s, void (*round)(struct stress *s));

/* The content of the files, and of the buffer before a read: never equal. */
unsigned char stress_byte(unsigned int file, size_t offset);
unsigned char stress_before(size_t offset);

/* Reads a piece of a file to @to and stops the run if that fails. */
void stress_read(struct stress *s, unsigned int file, size_t offset, unsigned char *to);

/* Compares a piece that was read, and stops the run if it is not what the file holds. */
void stress_compare(struct stress *s, unsigned int file, size_t offset,
		    const unsigned char *came);

#endif /* _STRESS_H */

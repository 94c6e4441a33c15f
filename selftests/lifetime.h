/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lifetime: who has I/O in flight gets signals, exits, execs, is killed.
 *
 * lifetime.c		options, what the cases share, the report
 * lifetime_read.c	reads over NFS, and requests of /dev/pin_guard_dma
 * lifetime_send.c	sends by /dev/pin_guard_tx
 */
#ifndef LIFETIME_H
#define LIFETIME_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "case.h"
#include "clock.h"
#include "counters.h"

/* What a case runs with, each by itself. */
enum {
	PREAD		= 1 << 0,
	LIBAIO		= 1 << 1,
	URING		= 1 << 2,
	URING_ASYNC	= 1 << 3,
	READS		= PREAD | LIBAIO | URING | URING_ASYNC,
	DMA_GET		= 1 << 4,	/* the control */
	DMA_WINDOW	= 1 << 5,
	DMA_PIN		= 1 << 6,
	DMA_LONGTERM	= 1 << 7,
	DMAS		= DMA_WINDOW | DMA_PIN | DMA_LONGTERM,
	SEND_OWN	= 1 << 8,
	SEND_REGISTERED	= 1 << 9,
	SENDS		= SEND_OWN | SEND_REGISTERED,
};

struct life_case {
	const char *name;
	void (*run)(void);
	unsigned int with;
	bool forks;		/* without protection the data is lost */
	bool group;		/* needs a memory cgroup */
};

/* Exits the program where there is nothing to test on. */
void read_setup(const char *path);
void send_setup(const char *address);
/* What is asked of a device from now on takes longer. */
void read_slower(void);

extern const struct life_case read_cases[], send_cases[];
extern const unsigned int nr_read_cases, nr_send_cases;

/* Of the process of a case */

extern unsigned int with;	/* one of the above */
extern bool control;		/* nothing protects the reads */
extern const char *group;	/* the directory of an empty memory cgroup */

/* Where the machine may have been too slow: the case is tried again, and has failed in the end. */
#define late(why)	finish(CASE_LATE, "%s", why)

/* For the report */
void count_run(void);
void count_lost(size_t bytes, const char *where);
void set_errno(int err);

/* Waits until @cond, if with limits, and while no other process has ended the case. */
#define await(cond, what) do {						\
	unsigned long _start = seconds();				\
	while (!(cond)) {						\
		nap_ms(5);						\
		case_goes_on();						\
		if (seconds() - _start > 90)				\
			give_up("%s: not in 90 s", what);		\
	}								\
} while (0)
unsigned long seconds(void);
void case_goes_on(void);

/* A process whose end is the matter. Its standard input is the case's end of a socket pair. */
struct victim {
	pid_t pid;
	int sock;		/* the case's end */
};

/* @body does not return. */
struct victim victim_start(void (*body)(void));
/* In the victim: it has got so far. */
void victim_ready(void);
void victim_await_ready(struct victim *v);
void victim_must_end(struct victim *v, int sig, int code);
/* Passes an open file through the socket pair. */
void victim_pass_fd(int fd);
int victim_take_fd(struct victim *v);

/* Signals every thread of this process but the caller's, again and again. */
void storm_begin(void);
unsigned long storm_end(void);

/* As nobody, with a limit. */
void become_limited(size_t memlock);

/* A number in debugfs pin_guard/counters; -1 without the module. */
extern long pins_before;

/* Whether rmmod of a module whose code is in use is refused. */
void must_be_busy(const char *module);

/* What an exec()ed lifetime ends with. */
#define EXEC_STATUS	7
void __noreturn exec_self(void);

int group_open(const char *file, int flags);
void group_write(const char *file, long value);	/* -1: "max" */
long group_read(const char *file, const char *key);
void group_join(void);
void oom_score(int adj);
/* Touches memory until the OOM killer comes. */
void __noreturn eat_memory(void);

#endif /* LIFETIME_H */

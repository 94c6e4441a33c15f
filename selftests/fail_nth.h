/* SPDX-License-Identifier: GPL-2.0 */
/*
 * fail_nth: an operation again and again, with its first allocation failed, its second, its
 * third, ... until it needs no more.
 *
 * fail_nth.c		the runs and the report; reads, forks, pins, modules
 * fail_nth_send.c	sends
 */
#ifndef FAIL_NTH_H
#define FAIL_NTH_H

#include <stdbool.h>
#include <stddef.h>

#include "case.h"

#define MAX_ERRNOS	4

struct operation {
	const char *name;
	const char *what;		/* for the usage */
	void (*run)(void);		/* in a process of its own, which it ends */
	int errnos[MAX_ERRNOS];		/* that it may give, by its documentation */
	bool reads;			/* from a file or the DMA device */
};

extern const struct operation op_tcp, op_tcp_big, op_tcp_small, op_tcp_batch, op_udp, op_udp_batch,
	op_register;

extern const char *peer_address;
extern unsigned int send_mode;

/* Between these two the nth allocation of this thread fails. */
void arm(void);
void disarm(void);

/* An end of a run: the operation has failed with @err. */
void __noreturn refused(int err);

#endif /* FAIL_NTH_H */

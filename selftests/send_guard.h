/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SEND_GUARD_H
#define SEND_GUARD_H

#include "case.h"
#include "counters.h"
#include "page.h"
#include "sender.h"

#define ALONE	0x1	/* no other case beside it: it counts the machine's pins */
#define ONCE	0x2	/* with the first address only */
#define ASKED	0x4	/* only if it, or its group, was asked for */
#define AT_ONCE	0x8	/* overwrites without waiting */
#define LOSES	0x10	/* and must be seen to lose data */

struct send_case {
	const char *name, *group;
	void (*run)(const struct send_case *c);
	unsigned int flags;
	unsigned int mode;
	int param;
};

extern const struct send_case send_cases[];
extern const unsigned int nr_send_cases;

struct settings {
	const char *address;	/* of this case's peer */
	const char *file;	/* on a slow file system with O_DIRECT */
	const char *sync;	/* a directory to meet the script in */
	unsigned int delay_ms;	/* that the script has put on the way back */
	bool control;
};

extern struct settings settings;

/*
 * For the cases: each runs in a process of its own, with a session of its own (send_session.c).
 */

#define A_WHILE_MS	300

extern int dev;			/* TX_DEVICE */
extern struct session s;

unsigned char *map(size_t size, int flags, int fd);
/* What comes next in the stream, or would, @later bytes on */
void fill(unsigned char *p, size_t len, size_t later);
void overwrite(unsigned char *p, size_t len);
/* @len bytes of the stream's next, not at the start of a page */
unsigned char *next_bytes(size_t len);

#define DATAGRAMS	8	/* all of the same size, have the bytes of a PEER_UDP session */

void begin_kind(struct peer_hello kind);
void begin(void);
struct pin_guard_tx_send request(unsigned int mode, const void *addr, size_t len);
/* All of it must go. Returns the last id. */
uint64_t put(unsigned int mode, const unsigned char *addr, size_t len, unsigned int flags);
/* The way is full: what is sent now stays here until the peer reads. */
void plug(void);
struct pin_guard_tx_status status_of(uint64_t id);
/*
 * Something is in flight, and its pages are pinned. False if all is complete, which is right only where
 * the link takes a copy before it sends: else the case fails.
 */
bool is_in_flight(uint64_t id, struct pin_guard_tx_status *status);
/* The same, for a case that is skipped where the link takes a copy. */
struct pin_guard_tx_status must_be_in_flight(uint64_t id);
void must_complete(uint64_t id);
/* Waits, if the case does and something is in flight, and overwrites; the peer reads. */
void let_go(const struct send_case *c, unsigned char *p, size_t len);
/* Ends the stream: what did the peer get? */
void end(bool loses);

/* Those of send_data.c, and their parameters */
enum { RECEIVED = 1 };
enum { CORK = 1 };
enum { FRAGMENTS = 1, BATCHED };
enum { ANON, READ_ONLY, THP, HUGETLB, FILE_SHARED, ZERO_PAGE, AFTER_FORK, FORK_IN_FLIGHT };

void stream(const struct send_case *c);
void retransmitted(const struct send_case *c);
void mixed(const struct send_case *c);
void udp(const struct send_case *c);
void registered_buffer(const struct send_case *c);
void shared_pins(const struct send_case *c);
void batched(const struct send_case *c);
void batch_short(const struct send_case *c);
void batch_errors(const struct send_case *c);
void small_sends(const struct send_case *c);
void memory(const struct send_case *c);
void read_in_flight(const struct send_case *c);

/* Those of send_takeover.c, and their parameters */
enum { KTLS = 1, KTLS_KEYS, SOCKMAP };

void taken_over(const struct send_case *c);
void copies(const struct send_case *c);
void mptcp(const struct send_case *c);

#endif /* SEND_GUARD_H */

/* SPDX-License-Identifier: GPL-2.0 */
/* What send_guard and blktest2 share: /dev/pin_guard_tx, and sessions with peer. */
#ifndef SENDER_H
#define SENDER_H

#include <stdbool.h>
#include <sys/socket.h>

#include "case.h"
#include "peer.h"
#include "pin_guard_tx.h"

#define TX_DEVICE	"/dev/pin_guard_tx"
#define NO_LIMIT	(~0U)

/* What a send can do that is no mode of the device. */
#define MODE_PLAIN	100	/* send(2) */

struct session {
	int control, data;
	uint64_t seed;
	uint64_t sent;		/* bytes of the stream, for the pattern */
};

extern const char * const mode_names[];

int tx_open(void);
/* These return 0 or an errno. */
int tx_send(int dev, struct pin_guard_tx_send *send);
int tx_batch(int dev, struct pin_guard_tx_batch *batch);
int tx_status(int dev, uint64_t id, struct pin_guard_tx_status *status);
int tx_wait(int dev, uint64_t id, unsigned int timeout_ms, struct pin_guard_tx_status *status);
int tx_abort(int dev, uint64_t id);

/* Returns the mode, or -1. */
int mode_by_name(const char *name);

/* @address: a numeric IPv4 or IPv6 address; the port is peer_port. */
extern unsigned int peer_port;
void session_open(struct session *s, const char *address, struct peer_hello hello);
void session_command(struct session *s, enum peer_command command);
struct peer_report session_report(struct session *s, enum peer_command command);

/* Room for @bytes in the send queue, whatever the sysctls say. */
void send_room(int fd, int bytes);

#endif /* SENDER_H */

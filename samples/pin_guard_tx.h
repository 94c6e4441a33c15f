/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Interface of /dev/pin_guard_tx, a sender from user memory (samples/). */
#ifndef _PIN_GUARD_TX_H
#define _PIN_GUARD_TX_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum pin_guard_tx_mode {
	PIN_GUARD_TX_COPY,	/* the stack copies: the memory may be reused at once */
	PIN_GUARD_TX_SPLICE,	/* MSG_SPLICE_PAGES: nobody is told when it may be reused */
	PIN_GUARD_TX_GUARD,	/* the send guard: it may be reused when the request is complete */
};

/* flags */
#define PIN_GUARD_TX_DONTWAIT	0x1	/* EAGAIN, or a short send, where the socket is full */
#define PIN_GUARD_TX_MORE	0x2	/* as MSG_MORE; TCP only, else EINVAL */
#define PIN_GUARD_TX_COPY_OK	0x4	/* GUARD: copies on a socket that cannot do without (kTLS) */

#define PIN_GUARD_TX_MAX_LEN	(64ULL << 20)

/* The requests of an open file have ids from 1 on; nobody else sees them. */
struct pin_guard_tx_send {
	__u64 addr;		/* or the offset in the registered buffer */
	__u64 len;
	__u64 buffer;		/* 0, or a registered buffer (GUARD) */
	__s32 fd;		/* a connected TCP or UDP socket */
	__u32 mode;
	__u32 flags;
	__u32 reserved;		/* must be 0 */
	__u64 id;		/* out */
	__u64 sent;		/* out: the bytes that the socket took; no other is pinned */
};

/* A piece of a batch. */
struct pin_guard_tx_part {
	__u64 addr;		/* or the offset in the registered buffer */
	__u64 len;
	__u64 buffer;		/* 0, or a registered buffer */
};

#define PIN_GUARD_TX_MAX_PARTS	256

/*
 * GUARD for many pieces at once: bytes of the stream (TCP), or a datagram each (UDP). One request. A
 * datagram that fails, but for the first, is the last; it stays pinned until the request is complete.
 */
struct pin_guard_tx_batch {
	__u64 parts;		/* address of an array of struct pin_guard_tx_part */
	__u32 nr;		/* of them */
	__s32 fd;		/* a connected TCP or UDP socket */
	__u32 flags;
	__u32 reserved;		/* must be 0 */
	__u64 id;		/* out */
	__u64 sent;		/* out: the bytes that the socket took */
};

/* Memory that is pinned once, for many sends; over RLIMIT_MEMLOCK ENOMEM, and a send ENOBUFS. */
struct pin_guard_tx_buffer {
	__u64 addr;
	__u64 len;
	__u64 buffer;		/* out: its id */
};

/* Of one request, or the sum of all. */
struct pin_guard_tx_status {
	__u64 id;		/* in; 0: all of this file */
	__u64 sent;		/* bytes that the sockets took */
	__u64 pinned;		/* pages held for it now */
	__u32 requests;
	__u32 in_flight;	/* requests that are not complete */
	__u32 copied;		/* requests of which the stack copied something */
	__u32 timeout_ms;	/* in: WAIT; ~0: no limit */
};

#define PIN_GUARD_TX_SEND	_IOWR('P', 0xd8, struct pin_guard_tx_send)
#define PIN_GUARD_TX_REGISTER	_IOWR('P', 0xd9, struct pin_guard_tx_buffer)
/* Its pins live on in the sends that are in flight. */
#define PIN_GUARD_TX_UNREGISTER	_IOW('P', 0xda, __u64)
#define PIN_GUARD_TX_STATUS	_IOWR('P', 0xdb, struct pin_guard_tx_status)
/* Until complete, then forgets the requests.  ETIMEDOUT; EINTR if killed. */
#define PIN_GUARD_TX_WAIT	_IOWR('P', 0xdc, struct pin_guard_tx_status)
/*
 * Resets the connection of a request: the pages come back soon, the data is lost.  EOPNOTSUPP for
 * UDP, which keeps nothing for a peer.
 */
#define PIN_GUARD_TX_ABORT	_IOW('P', 0xdd, __u64)
#define PIN_GUARD_TX_BATCH	_IOWR('P', 0xde, struct pin_guard_tx_batch)
/* poll(2): POLLIN when a request is complete that nobody has waited for.  O_ASYNC: SIGIO then. */

#endif /* _PIN_GUARD_TX_H */

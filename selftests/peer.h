/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What peer and those who send to it agree on; both have the same byte order.
 *
 * A session is a control connection, and a second one (or UDP) for the data. Both begin with
 * a struct peer_hello; the session's is answered by a report. Then the control connection
 * takes commands of a byte; when it ends, so does the session.
 */
#ifndef PEER_H
#define PEER_H

#include <stddef.h>
#include <stdint.h>

#define PEER_PORT	20808
#define PEER_MAGIC	0x70656572

enum peer_kind {
	PEER_DATA,	/* the data connection of a session */
	PEER_TCP,	/* a stream, checked byte by byte */
	PEER_UDP,	/* the same in datagrams */
	PEER_RPC,	/* records that are answered, of words that count */
};

enum peer_command {
	PEER_GO = 'g',		/* read; nothing is read before */
	PEER_REPLY = 'r',	/* answer the record */
	PEER_NOW = 'n',		/* report what has come */
	PEER_END = 'e',		/* report when the data has ended */
};

struct peer_hello {
	uint32_t magic;
	uint32_t kind;
	uint64_t token;		/* says whose the data connection is */
	uint64_t seed;		/* of the pattern */
	uint64_t bytes;		/* UDP: how many will come */
	uint32_t udp_port;	/* where they come from */
	uint32_t pause_us;	/* between reads: a slow reader */
};

struct peer_report {
	uint32_t magic;
	uint32_t records;	/* RPC, or datagrams */
	uint64_t received;	/* bytes */
	uint64_t bad;		/* bytes, in RPC words */
	uint64_t overwritten;	/* bad ones that are PEER_OVERWRITTEN, or RPC_OVERWRITTEN */
	uint64_t first_bad;	/* offset */
	int32_t error;		/* how the data ended */
	uint32_t ended;
};

#define PEER_OVERWRITTEN	'Z'

/* What is sent: the byte at each offset of a stream, unlike its neighbours and other streams'. */
static inline unsigned char peer_byte(uint64_t seed, uint64_t offset)
{
	uint64_t x = (seed << 40) + offset / 8;

	if (!seed)
		return 0;	/* the zero page */
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return (x ^ x >> 31) >> offset % 8 * 8;
}

/* A record: the header, and words that count from RPC_WORD(xid, 0). */
struct rpc_header {
	uint32_t magic;
	uint32_t xid;
	uint32_t words;
};

struct rpc_reply {
	uint32_t magic;
	uint32_t xid;
};

#define RPC_WORD(xid, i)	((xid) << 20 | (i))
#define RPC_OVERWRITTEN		0xdeadbeefU

#endif /* PEER_H */

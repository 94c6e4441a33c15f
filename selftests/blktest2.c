// SPDX-License-Identifier: GPL-2.0
/*
 * blktest2: the NFS report of 2008. A requester sends a buffer in a record, and again when no
 * reply came in time. The reply to the first comes while the second is still queued: the
 * request is complete, and its owner reuses the buffer. What does the second carry?
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sender.h"

static struct {
	const char *address;
	int mode;
	bool plain, registered, at_once, control;
	unsigned int rounds, duplicates, limit_ms, words;
} opt = { .rounds = 3, .duplicates = 3, .limit_ms = 100, .words = 32 << 10 };

static int dev = -1;
static struct session peer;
static uint32_t *words;
static uint64_t buffer;		/* registered, or 0 */

static void send_words(void)
{
	struct pin_guard_tx_send send_ = {
		.addr = buffer ? 0 : (unsigned long)words, .buffer = buffer,
		.fd = peer.data, .mode = opt.mode,
	};
	uint64_t len = opt.words * sizeof(*words);
	int err;

	if (opt.plain) {
		must(send(peer.data, words, len, 0) == (ssize_t)len, "send: %s", strerror(errno));
		return;
	}
	for (; len; len -= send_.sent, send_.addr += send_.sent) {
		send_.len = len;
		err = tx_send(dev, &send_);
		must(!err && send_.sent, "%s: %s", mode_names[opt.mode], strerror(err));
	}
}

static void send_record(uint32_t xid)
{
	struct rpc_header h = { PEER_MAGIC, xid, opt.words };

	must(send(peer.data, &h, sizeof(h), MSG_MORE) == sizeof(h), "send: %s", strerror(errno));
	send_words();
}

static bool reply_comes(int timeout_ms)
{
	struct pollfd pfd = { .fd = peer.data, .events = POLLIN };

	return poll(&pfd, 1, timeout_ms) == 1;
}

static void one_round(uint32_t xid)
{
	struct pin_guard_tx_status status;
	struct rpc_reply reply;
	unsigned int i;
	int err;

	for (i = 0; i < opt.words; i++)
		words[i] = RPC_WORD(xid, i);
	send_record(xid);
	for (i = 0; i < opt.duplicates; i++) {
		must(!reply_comes(opt.limit_ms), "a reply that nobody was told to give");
		send_record(xid);
	}
	/* The peer has read the first, or will when it gets here, and nothing else. */
	session_command(&peer, PEER_REPLY);
	must(recv(peer.data, &reply, sizeof(reply), MSG_WAITALL) == sizeof(reply) &&
	     reply.magic == PEER_MAGIC && reply.xid == xid, "no reply: %s", strerror(errno));

	if (opt.mode == PIN_GUARD_TX_GUARD) {
		err = tx_status(dev, 0, &status);
		must(!err && status.in_flight && status.pinned,
		     "duplicates are queued, but in flight are %u requests, %llu pages (%s)",
		     status.in_flight, status.pinned, strerror(err));
	}
	if (opt.mode == PIN_GUARD_TX_GUARD && !opt.at_once) {
		session_command(&peer, PEER_GO);
		err = tx_wait(dev, 0, NO_LIMIT, &status);
		must(!err, "wait: %s", strerror(err));
		must(!status.in_flight && !status.pinned, "complete, with %u in flight, %llu pages",
		     status.in_flight, status.pinned);
	}
	for (i = 0; i < opt.words; i++)
		words[i] = RPC_OVERWRITTEN;
	if (opt.mode != PIN_GUARD_TX_GUARD || opt.at_once)
		session_command(&peer, PEER_GO);

	/* The next round must not meet what is left of this one. */
	for (;;) {
		struct peer_report report = session_report(&peer, PEER_NOW);

		if (report.records >= xid * (1 + opt.duplicates))
			break;
		must(!report.ended, "the connection ended after %u records", report.records);
		usleep(10000);
	}
}

static void __noreturn usage(int status)
{
	printf("Usage: blktest2 [options] ADDRESS\n"
	       "  -p, --port N        of peer at ADDRESS (%u)\n"
	       "  -m, --mode MODE     copy, splice, guard; plain: send(2), without " TX_DEVICE "\n"
	       "  -R, --register      one pinned buffer for all sends\n"
	       "  -O, --at-once       overwrite without waiting\n"
	       "  -C, --control       the loss must be seen\n"
	       "  -n, --rounds N      (%u)\n"
	       "  -l, --limit MS      without a reply, until the record is sent again (%u)\n",
	       PEER_PORT, opt.rounds, opt.limit_ms);
	exit(status);
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "port", required_argument, NULL, 'p' },
		{ "mode", required_argument, NULL, 'm' },
		{ "register", no_argument, NULL, 'R' },
		{ "at-once", no_argument, NULL, 'O' },
		{ "control", no_argument, NULL, 'C' },
		{ "rounds", required_argument, NULL, 'n' },
		{ "limit", required_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int o;

	opt.mode = PIN_GUARD_TX_GUARD;
	while ((o = getopt_long(argc, argv, "p:m:ROCn:l:h", longs, NULL)) != -1) {
		switch (o) {
		case 'p':
			peer_port = atoi(optarg);
			break;
		case 'm':
			opt.plain = !strcmp(optarg, "plain");
			opt.mode = opt.plain ? PIN_GUARD_TX_COPY : mode_by_name(optarg);
			if (opt.mode < 0)
				usage(KSFT_FAIL);
			break;
		case 'R':
			opt.registered = true;
			break;
		case 'O':
			opt.at_once = true;
			break;
		case 'C':
			opt.control = true;
			break;
		case 'n':
			opt.rounds = atoi(optarg);
			break;
		case 'l':
			opt.limit_ms = atoi(optarg);
			break;
		default:
			usage(o == 'h' ? 0 : KSFT_FAIL);
		}
	}
	opt.address = argv[optind];
}

int main(int argc, char **argv)
{
	struct peer_report report;
	uint32_t xid, sent;

	options(argc, argv);
	ksft_print_header();
	if (!opt.address)
		ksft_exit_skip("no peer given: send.sh does\n");
	if (!opt.plain) {
		dev = tx_open();
		if (dev < 0)
			ksft_exit_skip(TX_DEVICE ": %s\n", strerror(errno));
	}
	ksft_set_plan(1);
	words = mmap(NULL, opt.words * sizeof(*words), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(words != MAP_FAILED, "no memory");
	if (opt.registered) {
		struct pin_guard_tx_buffer b = {
			.addr = (unsigned long)words, .len = opt.words * sizeof(*words),
		};

		/* Untouched memory would be pinned as the zero page. */
		memset(words, 0, b.len);
		must(!ioctl(dev, PIN_GUARD_TX_REGISTER, &b), "register: %s", strerror(errno));
		buffer = b.buffer;
	}

	session_open(&peer, opt.address, (struct peer_hello){ .kind = PEER_RPC });
	/* Where each skb is a segment, as on a link with ESP, a byte counts as up to five. */
	send_room(peer.data, 4 * (2 + opt.duplicates) * opt.words * (int)sizeof(*words));
	for (xid = 1; xid <= opt.rounds; xid++)
		one_round(xid);
	shutdown(peer.data, SHUT_WR);
	report = session_report(&peer, PEER_END);

	sent = opt.rounds * (1 + opt.duplicates);
	ksft_print_msg("%u records sent, %u came: %llu words, 0xdeadbeef %llu, otherwise wrong %llu, the first at offset %llu\n",
		       sent, report.records, (unsigned long long)report.records * opt.words,
		       (unsigned long long)report.overwritten,
		       (unsigned long long)(report.bad - report.overwritten),
		       (unsigned long long)report.first_bad);
	/* All that can come instead of a record's word is what it was overwritten with. */
	ksft_test_result(report.records == sent && report.bad == report.overwritten &&
			 (opt.control ? report.bad > 0 : !report.bad),
			 "%s%s%s: %s\n", opt.plain ? "plain" : mode_names[opt.mode],
			 opt.registered ? ", registered" : "", opt.at_once ? ", at once" : "",
			 opt.control ? "duplicates carry what overwrote the buffer" :
			 "duplicates carry the record");
	ksft_finished();
}

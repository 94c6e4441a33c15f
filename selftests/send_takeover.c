// SPDX-License-Identifier: GPL-2.0
/* Cases of send_guard: what may take a socket over, and then cannot send without a copy. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/tcp.h>
#include <linux/tls.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "send_guard.h"

static int bpf(int command, union bpf_attr attr)
{
	return syscall(SYS_bpf, command, &attr, sizeof(attr));
}

/* Every send of the socket gets a verdict, which is that it may pass. */
static int sockmap(int sock)
{
	static const struct bpf_insn pass[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = SK_PASS },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int key = 0, map, prog, err;

	map = bpf(BPF_MAP_CREATE, (union bpf_attr){
		.map_type = BPF_MAP_TYPE_SOCKMAP, .key_size = 4, .value_size = 4, .max_entries = 1,
	});
	if (map < 0)
		return map;
	prog = bpf(BPF_PROG_LOAD, (union bpf_attr){
		.prog_type = BPF_PROG_TYPE_SK_MSG, .insns = (unsigned long)pass,
		.insn_cnt = ARRAY_SIZE(pass), .license = (unsigned long)"GPL",
	});
	if (prog < 0)
		return prog;
	err = bpf(BPF_PROG_ATTACH, (union bpf_attr){
		.target_fd = map, .attach_bpf_fd = prog, .attach_type = BPF_SK_MSG_VERDICT,
	});
	return err ?: bpf(BPF_MAP_UPDATE_ELEM, (union bpf_attr){
		.map_fd = map, .key = (unsigned long)&key, .value = (unsigned long)&sock,
	});
}

static int tls_keys(int sock)
{
	struct tls12_crypto_info_aes_gcm_128 keys = {
		.info = { .version = TLS_1_2_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128 },
	};

	return setsockopt(sock, SOL_TLS, TLS_TX, &keys, sizeof(keys));
}

static void take_over(int who)
{
	if (who == SOCKMAP && sockmap(s.data))
		skip("no sockmap: %s", strerror(errno));
	if ((who == KTLS || who == KTLS_KEYS) &&
	    setsockopt(s.data, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")))
		skip("no kernel TLS: %s", strerror(errno));
	if (who == KTLS_KEYS && tls_keys(s.data))
		skip("no kernel TLS with AES-GCM: %s", strerror(errno));
}

/* What was sent before somebody took the socket over is still in flight, and the rest is copied. */
void taken_over(const struct send_case *c)
{
	struct pin_guard_tx_send r;
	size_t len = 100000;
	unsigned char *p;
	int err;

	begin();
	plug();
	p = next_bytes(2 * len);
	put(c->mode, p, len, 0);
	take_over(c->param);
	must_be_in_flight(0);
	r = request(c->mode, p + len, len);
	err = tx_send(dev, &r);
	must(err == EOPNOTSUPP, "expected EOPNOTSUPP, came %s", strerror(err));
	/* With keys the peer would have to decrypt it. */
	if (c->param != KTLS_KEYS) {
		put(c->mode, p + len, len, PIN_GUARD_TX_COPY_OK);
		overwrite(p + len, len);
	}
	let_go(c, p, len);
	end(c->flags & LOSES);
}

/* Both ends of a connection refuse each mode, and what send(2) has in flight arrives. */
void mptcp(const struct send_case *c)
{
	struct sockaddr_in here = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int listener = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), ends[2], err;
	socklen_t addrlen = sizeof(here);
	unsigned char *p, came[100000];
	struct pin_guard_tx_send r;
	unsigned int i;

	if (listener < 0)
		skip("no MPTCP: %s", strerror(errno));
	dev = tx_open();
	must(dev >= 0, TX_DEVICE ": %s", strerror(errno));
	must(!bind(listener, (void *)&here, sizeof(here)) && !listen(listener, 1) &&
	     !getsockname(listener, (void *)&here, &addrlen), "listen: %s", strerror(errno));
	ends[0] = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	if (connect(ends[0], (void *)&here, sizeof(here)))
		skip("no loopback: %s", strerror(errno));
	ends[1] = accept(listener, NULL, NULL);
	must(ends[1] >= 0, "accept: %s", strerror(errno));

	s.seed = getpid();
	p = next_bytes(sizeof(came));
	must(send(ends[0], p, sizeof(came), 0) == sizeof(came), "send: %s", strerror(errno));
	for (i = 0; i < 2 * ARRAY_SIZE(ends) * (PIN_GUARD_TX_GUARD + 1); i++) {
		s.data = ends[i % 2];
		r = request(i / 4, p, PAGE);
		r.flags = i & 2 ? PIN_GUARD_TX_COPY_OK : 0;
		err = tx_send(dev, &r);
		must(err == EOPNOTSUPP, "%s, flags 0x%x: expected EOPNOTSUPP, came %s",
		     mode_names[r.mode], r.flags, strerror(err));
	}
	must(!status_of(0).requests, "a refused request is known");
	must(recv(ends[1], came, sizeof(came), MSG_WAITALL) == sizeof(came), "recv: %s",
	     strerror(errno));
	must(!memcmp(came, p, sizeof(came)), "what came is not what was sent");
}

/* A socket that cannot do without a copy */
void copies(const struct send_case *c)
{
	unsigned char *p;
	struct pin_guard_tx_send r;
	int err;

	begin();
	p = next_bytes(10000);
	take_over(c->param);
	r = request(c->mode, p, 10000);
	err = tx_send(dev, &r);
	must(err == EOPNOTSUPP, "expected EOPNOTSUPP, came %s", strerror(err));
	put(c->mode, p, 10000, PIN_GUARD_TX_COPY_OK);
	overwrite(p, 10000);
	must(status_of(0).copied == 1, "it does not say that it was copied");
	session_command(&s, PEER_GO);
	must_complete(0);
	end(false);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Traffic whose every byte is checked, for the model's own test.
 *
 *   traffic recv PORT BYTES             take one TCP connection
 *   traffic send ADDRESS PORT BYTES     make it
 *   traffic echo PORT                   send UDP datagrams back
 *   traffic udp ADDRESS PORT SIZE...    send some, compare what comes back
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint8_t buffer[1 << 17];

static void die(const char *what)
{
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Differs for every 4 bytes of a stream, so that nothing may be elsewhere. */
static uint8_t pattern(uint64_t at)
{
	uint32_t x = (uint32_t)(at / 4) * 2654435761u;

	x ^= x >> 15;
	return x >> (at % 4 * 8);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in6 address(const char *text, const char *port)
{
	struct sockaddr_in6 a = {
		.sin6_family = AF_INET6,
		.sin6_port = htons(atoi(port)),
	};
	char mapped[64];

	snprintf(mapped, sizeof(mapped), "%s%s", strchr(text, ':') ? "" : "::ffff:", text);
	if (inet_pton(AF_INET6, mapped, &a.sin6_addr) != 1) {
		errno = EINVAL;
		die(text);
	}
	return a;
}

static int listener(int type, const char *port)
{
	struct sockaddr_in6 a = address("::", port);
	int fd = socket(AF_INET6, type, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)))
		die("bind");
	return fd;
}

static int receive(const char *port, uint64_t bytes)
{
	uint64_t at = 0, bad = 0, first = 0;
	int fd = listener(SOCK_STREAM, port), peer;
	double start;
	ssize_t n;

	if (listen(fd, 1))
		die("listen");
	alarm(300);
	peer = accept(fd, NULL, NULL);
	if (peer < 0)
		die("accept");
	start = now();
	while ((n = read(peer, buffer, sizeof(buffer))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (buffer[i] != pattern(at + i) && !bad++)
				first = at + i;
		}
		at += n;
	}
	printf("%llu of %llu bytes, %llu bad", (unsigned long long)at,
	       (unsigned long long)bytes, (unsigned long long)bad);
	if (bad)
		printf(" (first at %llu)", (unsigned long long)first);
	printf(", %.1f MB/s\n", at / 1e6 / (now() - start));
	return at != bytes || bad;
}

static int transmit(const char *to, const char *port, uint64_t bytes)
{
	struct sockaddr_in6 a = address(to, port);
	int fd = -1;

	alarm(300);
	for (int try = 0; try < 100; try++) {
		fd = socket(AF_INET6, SOCK_STREAM, 0);
		if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
			break;
		close(fd);
		fd = -1;
		usleep(50000);
	}
	if (fd < 0)
		die("connect");
	for (uint64_t at = 0; at < bytes;) {
		size_t want = sizeof(buffer);
		ssize_t n;

		if (bytes - at < want)
			want = bytes - at;
		for (size_t i = 0; i < want; i++)
			buffer[i] = pattern(at + i);
		for (size_t done = 0; done < want; done += n) {
			n = write(fd, buffer + done, want - done);
			if (n < 0)
				die("write");
		}
		at += want;
	}
	close(fd);
	return 0;
}

static void echo(const char *port)
{
	int fd = listener(SOCK_DGRAM, port);

	for (;;) {
		struct sockaddr_in6 from;
		socklen_t length = sizeof(from);
		ssize_t n = recvfrom(fd, buffer, sizeof(buffer), 0,
				     (struct sockaddr *)&from, &length);

		if (n >= 0)
			sendto(fd, buffer, n, 0, (struct sockaddr *)&from, length);
	}
}

static int datagrams(const char *to, const char *port, char **sizes)
{
	struct sockaddr_in6 a = address(to, port);
	int fd = socket(AF_INET6, SOCK_DGRAM, 0), lost = 0, count = 0;

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
		die("connect");
	for (; *sizes; sizes++, count++) {
		size_t size = atoi(*sizes);
		int good = 0;

		for (int try = 0; try < 5 && !good; try++) {
			struct pollfd p = { .fd = fd, .events = POLLIN };

			for (size_t i = 0; i < size; i++)
				buffer[i] = pattern(i + size);
			send(fd, buffer, size, 0);
			memset(buffer, 0, size);
			if (poll(&p, 1, 1000) == 1) {
				good = recv(fd, buffer, sizeof(buffer), 0) == (ssize_t)size;
				for (size_t i = 0; i < size; i++)
					good &= buffer[i] == pattern(i + size);
			}
		}
		if (!good) {
			printf("%zu bytes did not come back\n", size);
			lost++;
		}
	}
	printf("%d of %d sizes came back\n", count - lost, count);
	return lost != 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "recv"))
		return receive(argv[2], strtoull(argv[3], NULL, 0));
	if (argc == 5 && !strcmp(argv[1], "send"))
		return transmit(argv[2], argv[3], strtoull(argv[4], NULL, 0));
	if (argc == 3 && !strcmp(argv[1], "echo"))
		echo(argv[2]);
	if (argc >= 5 && !strcmp(argv[1], "udp"))
		return datagrams(argv[2], argv[3], argv + 4);
	fprintf(stderr, "traffic: see its source\n");
	return 2;
}

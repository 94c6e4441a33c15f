// SPDX-License-Identifier: GPL-2.0
/*
 * send_guard: what is handed to a socket through /dev/pin_guard_tx arrives as it was, though
 * the memory is overwritten when the guard says that it may be, and stays pinned until then.
 * The cases are in send_case.c; the other end is peer.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/if_ether.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "send_guard.h"

#define MAX_ADDRESSES	2

struct settings settings;

static struct {
	const char *addresses[MAX_ADDRESSES], *prefix;
	unsigned int nr_addresses, jobs, limit_s;
	bool capture;
} opt = { .prefix = "", .jobs = 8, .limit_s = 300 };

static struct job {
	const struct send_case *c;
	const char *address;
} *jobs;

/* Jobs */

static void job_run(unsigned int i)
{
	settings.address = jobs[i].address;
	jobs[i].c->run(jobs[i].c);
	pass();
}

static bool job_alone(unsigned int i)
{
	return jobs[i].c->flags & ALONE;
}

static const char *family(const char *address)
{
	return strchr(address, ':') ? "v6" : "v4";
}

static void report(unsigned int i, const struct verdict *v)
{
	const struct job *j = &jobs[i];
	const char *f = family(j->address);
	const char *space = *opt.prefix ? " " : "";

	if (*v->why)
		ksft_print_msg("%s %s: %s\n", j->c->name, f, v->why);
	switch (v->outcome) {
	case CASE_PASSED:
		ksft_test_result_pass("%s%s%s %s\n", opt.prefix, space, j->c->name, f);
		break;
	case CASE_SKIPPED:
		ksft_test_result_skip("%s%s%s %s\n", opt.prefix, space, j->c->name, f);
		break;
	default:
		ksft_test_result_fail("%s%s%s %s\n", opt.prefix, space, j->c->name, f);
		break;
	}
}

/* @names: of cases or groups; none: all but those that must be asked for */
static bool selected(const struct send_case *c, char **names)
{
	if (!*names)
		return !(c->flags & ASKED);
	for (; *names; names++)
		if (!strcmp(*names, c->name) || !strcmp(*names, c->group))
			return true;
	return false;
}

/* Fills the jobs if they are there, and counts them. */
static unsigned int jobs_list(char **names)
{
	const char *space = *opt.prefix ? " " : "";
	unsigned int c, a, n = 0;

	for (c = 0; c < nr_send_cases; c++) {
		for (a = 0; a < opt.nr_addresses && selected(&send_cases[c], names); a++) {
			if (a && send_cases[c].flags & ONCE)
				continue;
			if (!case_wanted("%s%s%s %s", opt.prefix, space, send_cases[c].name,
					 family(opt.addresses[a])))
				continue;
			if (jobs) {
				jobs[n].c = &send_cases[c];
				jobs[n].address = opt.addresses[a];
			}
			n++;
		}
	}
	return n;
}

static void __noreturn usage(int status)
{
	printf("Usage: send_guard [options] -a ADDRESS [CASE or GROUP...]\n"
	       "  -a, --address A     of peer; once more for the other family\n"
	       "  -p, --port N        of peer (%u)\n"
	       "  -n, --name TEXT     before the names of the tests\n"
	       "  -d, --delay MS      what netem does to all that comes back\n"
	       "  -s, --sync DIR      cases that need the link cut make a file there, await \"cut\"\n"
	       "  -f, --file FILE     for read-in-flight: on a slow file system with O_DIRECT\n"
	       "  -C, --control       read-in-flight: the read must be lost\n"
	       "  -k, --capture       with a packet socket that nobody reads\n"
	       "  -j, --jobs N        cases at a time (%u)\n"
	       "  -t, --limit S       a case that takes longer has failed (%u)\n"
	       "  -l, --list          the cases\n", PEER_PORT, opt.jobs, opt.limit_s);
	exit(status);
}

static void list(void)
{
	unsigned int i;

	for (i = 0; i < nr_send_cases; i++)
		printf("%-24s %-10s %s%s\n", send_cases[i].name, send_cases[i].group,
		       send_cases[i].flags & LOSES ? "control: must lose data" : "",
		       send_cases[i].flags & ASKED ? "not run unless asked for" : "");
	exit(0);
}

static unsigned int number(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!*text || *end || !n || n > 1000000)
		usage(KSFT_FAIL);
	return n;
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "address", required_argument, NULL, 'a' },
		{ "port", required_argument, NULL, 'p' },
		{ "name", required_argument, NULL, 'n' },
		{ "delay", required_argument, NULL, 'd' },
		{ "sync", required_argument, NULL, 's' },
		{ "file", required_argument, NULL, 'f' },
		{ "control", no_argument, NULL, 'C' },
		{ "capture", no_argument, NULL, 'k' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "limit", required_argument, NULL, 't' },
		{ "list", no_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int o;

	while ((o = getopt_long(argc, argv, "a:p:n:d:s:f:Ckj:t:lh", longs, NULL)) != -1) {
		switch (o) {
		case 'a':
			if (opt.nr_addresses == MAX_ADDRESSES)
				usage(KSFT_FAIL);
			opt.addresses[opt.nr_addresses++] = optarg;
			break;
		case 'p':
			peer_port = number(optarg);
			break;
		case 'n':
			opt.prefix = optarg;
			break;
		case 'd':
			settings.delay_ms = number(optarg);
			break;
		case 's':
			settings.sync = optarg;
			break;
		case 'f':
			settings.file = optarg;
			break;
		case 'C':
			settings.control = true;
			break;
		case 'k':
			opt.capture = true;
			break;
		case 'j':
			opt.jobs = number(optarg);
			break;
		case 't':
			opt.limit_s = number(optarg);
			break;
		case 'l':
			list();
			break;
		default:
			usage(o == 'h' ? 0 : KSFT_FAIL);
		}
	}
}

int main(int argc, char **argv)
{
	int dev, capture = -1, room = 8 << 20;
	unsigned int n;
	char packet[64];
	long pins;

	options(argc, argv);
	ksft_print_header();
	if (!opt.nr_addresses)
		ksft_exit_skip("no peer given: send.sh does\n");
	dev = tx_open();
	if (dev < 0)
		ksft_exit_skip(TX_DEVICE ": %s\n", strerror(errno));
	close(dev);
	signal(SIGPIPE, SIG_IGN);

	n = jobs_list(argv + optind);
	if (!n)
		ksft_exit_fail_msg("no such case\n");
	jobs = calloc(n, sizeof(*jobs));
	if (!jobs)
		ksft_exit_fail_msg("no memory\n");
	jobs_list(argv + optind);
	if (opt.capture) {
		capture = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
		if (capture < 0)
			ksft_exit_skip("no packet socket: %s\n", strerror(errno));
		setsockopt(capture, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	}

	ksft_set_plan(n + 1 + opt.capture);
	pins = pins_held();
	cases_run(&(struct cases){
		.nr = n, .at_once = opt.jobs, .limit_s = opt.limit_s, .run = job_run,
		.alone = job_alone, .report = report,
	});
	pins = pins_left(pins);
	if (pins > 0)
		ksft_print_msg("%ld pins too many\n", pins);
	ksft_test_result(pins <= 0, "%s%sno pin is left\n", opt.prefix, *opt.prefix ? " " : "");
	if (opt.capture)
		ksft_test_result(recv(capture, packet, sizeof(packet), MSG_DONTWAIT) > 0,
				 "%s%spackets were captured\n", opt.prefix,
				 *opt.prefix ? " " : "");
	ksft_finished();
}

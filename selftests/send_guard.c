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
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "send_guard.h"

#define MAX_ADDRESSES	2

struct settings settings;

static struct {
	const char *addresses[MAX_ADDRESSES], *prefix;
	unsigned int nr_addresses, jobs, limit_s;
	bool capture;
} opt = { .prefix = "", .jobs = 8, .limit_s = 120 };

struct job {
	const struct send_case *c;
	const char *address;
	struct verdict *v;	/* shared with the case process */
	pid_t pid;
	uint64_t deadline;
	bool ended;
};

static struct verdict *my_verdict;	/* in a case process */

void finish(enum outcome outcome, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(my_verdict->why, sizeof(my_verdict->why), fmt, args);
	va_end(args);
	my_verdict->outcome = outcome;
	_exit(0);
}

void give_up(const char *fmt, ...)
{
	char why[sizeof(my_verdict->why)];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	finish(CASE_FAILED, "%s", why);
}

long pins_held(void)
{
	long acquired = 0, released = 0;
	char line[128];
	FILE *f;
	int fd;

	/* Counters are per CPU until they are gathered. */
	fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);
	if (fd >= 0) {
		(void)!write(fd, "1", 1);
		close(fd);
	}
	f = fopen("/proc/vmstat", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "nr_foll_pin_acquired %ld", &acquired) != 1 &&
		    sscanf(line, "nr_foll_pin_released %ld", &released) != 1)
			continue;
	}
	if (f)
		fclose(f);
	return acquired - released;
}

long pins_left(long before)
{
	int tries;

	for (tries = 0; tries < 200 && pins_held() > before; tries++)
		usleep(50000);
	return pins_held() - before;
}

/* Jobs */

static void job_start(struct job *j)
{
	fflush(stdout);
	j->pid = fork();
	if (j->pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	if (!j->pid) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		my_verdict = j->v;
		settings.address = j->address;
		j->c->run(j->c);
		finish(CASE_PASSED, "%s", "");
	}
	setpgid(j->pid, j->pid);
	j->deadline = now_ms() + opt.limit_s * 1000;
}

static void job_end(struct job *j, int status)
{
	j->ended = true;
	if (j->v->outcome != CASE_RUNNING)
		return;
	j->v->outcome = CASE_FAILED;
	snprintf(j->v->why, sizeof(j->v->why), "ended with status 0x%x and no verdict", status);
}

static void job_expire(struct job *j)
{
	kill(-j->pid, SIGKILL);
	snprintf(j->v->why, sizeof(j->v->why), "not done in %u s", opt.limit_s);
	j->v->outcome = CASE_FAILED;
	/* Uninterruptible sleep would outlast us: leave it behind. */
	usleep(200000);
	waitpid(j->pid, NULL, WNOHANG);
	j->ended = true;
}

static void report(const struct job *j)
{
	const char *family = strchr(j->address, ':') ? "v6" : "v4";
	const char *space = *opt.prefix ? " " : "", *why = j->v->why;

	switch (j->v->outcome) {
	case CASE_PASSED:
		ksft_test_result_pass("%s%s%s %s%s%s\n", opt.prefix, space, j->c->name, family,
				      *why ? ": " : "", why);
		break;
	case CASE_SKIPPED:
		ksft_test_result_skip("%s%s%s %s: %s\n", opt.prefix, space, j->c->name, family,
				      why);
		break;
	default:
		ksft_print_msg("%s %s: %s\n", j->c->name, family, why);
		ksft_test_result_fail("%s%s%s %s\n", opt.prefix, space, j->c->name, family);
		break;
	}
}

static bool may_start(const struct job *j, unsigned int running, bool alone)
{
	return !running || (running < opt.jobs && !alone && !(j->c->flags & ALONE));
}

/* Runs the jobs, opt.jobs at a time, and reports each in its turn. */
static void jobs_run(struct job *jobs, unsigned int n)
{
	unsigned int started = 0, reported = 0, running = 0, i;
	bool alone = false;
	int status;
	pid_t pid;

	while (reported < n) {
		while (started < n && may_start(&jobs[started], running, alone)) {
			alone = jobs[started].c->flags & ALONE;
			job_start(&jobs[started++]);
			running++;
		}
		pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			usleep(2000);
		for (i = reported; i < started; i++) {
			if (jobs[i].ended)
				continue;
			if (pid > 0 && jobs[i].pid == pid)
				job_end(&jobs[i], status);
			else if (now_ms() > jobs[i].deadline)
				job_expire(&jobs[i]);
			running -= jobs[i].ended;
		}
		while (reported < started && jobs[reported].ended)
			report(&jobs[reported++]);
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

/* Fills @jobs, or only counts them. */
static unsigned int jobs_list(struct job *jobs, char **names)
{
	unsigned int c, a, n = 0;

	for (c = 0; c < nr_send_cases; c++) {
		for (a = 0; a < opt.nr_addresses && selected(&send_cases[c], names); a++) {
			if (a && send_cases[c].flags & ONCE)
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
	struct verdict *verdicts;
	struct job *jobs;
	unsigned int i, n;
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

	n = jobs_list(NULL, argv + optind);
	if (!n)
		ksft_exit_fail_msg("no such case\n");
	jobs = calloc(n, sizeof(*jobs));
	jobs_list(jobs, argv + optind);
	verdicts = mmap(NULL, n * sizeof(*verdicts), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!jobs || verdicts == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	for (i = 0; i < n; i++)
		jobs[i].v = &verdicts[i];
	if (opt.capture) {
		capture = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
		if (capture < 0)
			ksft_exit_skip("no packet socket: %s\n", strerror(errno));
		setsockopt(capture, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	}

	ksft_set_plan(n + 1 + opt.capture);
	pins = pins_held();
	jobs_run(jobs, n);
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

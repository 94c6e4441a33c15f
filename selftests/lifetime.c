// SPDX-License-Identifier: GPL-2.0
/*
 * lifetime: who has I/O in flight gets signals, exits, execs, is killed. Afterwards no window is
 * open and no pin is left; and whoever lives on has its data.
 *
 * Each case runs in a process of its own, once for each kind of I/O that it is made for. A line
 * "# fault:" says what came of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <dirent.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lifetime.h"

#define LIMIT_S		240	/* a case */
#define SETTLE_S	60	/* windows and pins, after a case */
#define MAX_LATE	3	/* times that a case is tried again */
#define NOBODY		65534

/* Shared by the processes of a case */
static struct {
	atomic_uint runs;
	atomic_ulong lost;
	int err;
	char where[200];	/* something was lost first */
} *report;

unsigned int with;
bool control;
const char *group;
long pins_before;

static const char * const kinds[] = {
	"pread", "libaio", "io_uring", "io_uring_async", "get", "window", "pin", "longterm",
	"send", "registered",
};

void count_run(void)
{
	atomic_fetch_add(&report->runs, 1);
}

void count_lost(size_t bytes, const char *where)
{
	if (bytes && !atomic_fetch_add(&report->lost, bytes))
		snprintf(report->where, sizeof(report->where), "%s", where);
}

void set_errno(int err)
{
	report->err = err;
}

unsigned long seconds(void)
{
	return now_ms() / 1000;
}

void case_goes_on(void)
{
	if (verdict->outcome != CASE_RUNNING)
		_exit(0);
}

/* Victims */

struct victim victim_start(void (*body)(void))
{
	struct victim v;
	int sock[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock))
		give_up("socketpair: %s", strerror(errno));
	v.pid = fork();
	if (v.pid < 0)
		give_up("fork: %s", strerror(errno));
	if (!v.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(sock[1], STDIN_FILENO);
		close(sock[0]);
		close(sock[1]);
		body();
		give_up("the victim is through");
	}
	close(sock[1]);
	v.sock = sock[0];
	return v;
}

void victim_ready(void)
{
	if (send(STDIN_FILENO, "r", 1, 0) != 1)
		give_up("the case is gone");
}

void victim_await_ready(struct victim *v)
{
	char byte;

	if (recv(v->sock, &byte, 1, 0) != 1)
		give_up("the victim ended too early");
}

void victim_must_end(struct victim *v, int sig, int code)
{
	int status;

	if (waitpid(v->pid, &status, 0) != v->pid)
		give_up("waitpid: %s", strerror(errno));
	close(v->sock);
	case_goes_on();
	if (sig && !(WIFSIGNALED(status) && WTERMSIG(status) == sig))
		give_up("expected an end by signal %d, came status 0x%x", sig, status);
	if (!sig && !(WIFEXITED(status) && WEXITSTATUS(status) == code))
		give_up("expected an exit with %d, came status 0x%x", code, status);
	count_run();
}

union fd_control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

void victim_pass_fd(int fd)
{
	struct iovec one = { .iov_base = "f", .iov_len = 1 };
	union fd_control c = {
		.header = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET,
			    .cmsg_type = SCM_RIGHTS },
	};
	struct msghdr msg = { .msg_iov = &one, .msg_iovlen = 1, .msg_control = &c,
			      .msg_controllen = sizeof(c) };

	memcpy(CMSG_DATA(&c.header), &fd, sizeof(fd));
	if (sendmsg(STDIN_FILENO, &msg, 0) != 1)
		give_up("SCM_RIGHTS: %s", strerror(errno));
}

int victim_take_fd(struct victim *v)
{
	char byte;
	struct iovec one = { .iov_base = &byte, .iov_len = 1 };
	union fd_control c = { 0 };
	struct msghdr msg = { .msg_iov = &one, .msg_iovlen = 1, .msg_control = &c,
			      .msg_controllen = sizeof(c) };
	int fd;

	if (recvmsg(v->sock, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
		give_up("no file came by SCM_RIGHTS");
	memcpy(&fd, CMSG_DATA(&c.header), sizeof(fd));
	return fd;
}

/* A storm of signals */

static struct {
	pthread_t thread;
	atomic_bool stop;
	atomic_ulong handled;
} storm;

static void storm_handler(int __always_unused sig)
{
	atomic_fetch_add(&storm.handled, 1);
}

static void *storm_main(void *arg)
{
	pid_t me = syscall(SYS_gettid), pid = getpid();

	while (!atomic_load(&storm.stop)) {
		DIR *tasks = opendir("/proc/self/task");
		struct dirent *d;

		while (tasks && (d = readdir(tasks)))
			if (atoi(d->d_name) && atoi(d->d_name) != me)
				syscall(SYS_tgkill, pid, atoi(d->d_name), SIGUSR1);
		if (tasks)
			closedir(tasks);
		nap_ms(4);
	}
	return arg;
}

void storm_begin(void)
{
	/* No SA_RESTART: a call that can be interrupted is. */
	struct sigaction action = { .sa_handler = storm_handler };

	sigaction(SIGUSR1, &action, NULL);
	atomic_store(&storm.stop, false);
	if (pthread_create(&storm.thread, NULL, storm_main, NULL))
		give_up("no thread");
}

unsigned long storm_end(void)
{
	atomic_store(&storm.stop, true);
	pthread_join(storm.thread, NULL);
	if (!storm.handled)
		give_up("no signal was handled");
	return storm.handled;
}

/* What the kernel says */

void must_be_busy(const char *module)
{
	char path[80];

	/* Or it would be gone for all cases that follow. */
	snprintf(path, sizeof(path), "/sys/module/%s/refcnt", module);
	if (number_in(path, "") < 1)
		give_up("%s is not in use: expected I/O in flight", module);
	if (!syscall(SYS_delete_module, module, O_NONBLOCK))
		give_up("%s was unloaded with I/O in flight", module);
	if (errno != EBUSY && errno != EWOULDBLOCK)
		give_up("rmmod %s: expected EBUSY, came %s", module, strerror(errno));
}

void exec_self(void)
{
	execl("/proc/self/exe", "lifetime", "--exit", NULL);
	give_up("exec: %s", strerror(errno));
}

void become_limited(size_t memlock)
{
	struct rlimit r = { .rlim_cur = memlock, .rlim_max = memlock };

	if (setrlimit(RLIMIT_MEMLOCK, &r) || setresuid(NOBODY, NOBODY, NOBODY))
		give_up("cannot be nobody: %s", strerror(errno));
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* The memory cgroup */

int group_open(const char *file, int flags)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	return open(path, flags | O_CLOEXEC);
}

void group_write(const char *file, long value)
{
	int fd = group_open(file, O_WRONLY);

	/* There is no memory.swap.max without swap. */
	if (fd < 0 && !strcmp(file, "memory.swap.max"))
		return;
	if (fd < 0 || (value < 0 ? dprintf(fd, "max\n") : dprintf(fd, "%ld\n", value)) < 0)
		give_up("%s/%s: %s", group, file, strerror(errno));
	close(fd);
}

long group_read(const char *file, const char *key)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	return number_in(path, key);
}

void group_join(void)
{
	group_write("memory.max", -1);
	group_write("memory.swap.max", 0);
	group_write("cgroup.procs", getpid());
}

void oom_score(int adj)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || dprintf(fd, "%d\n", adj) < 0)
		give_up("oom_score_adj: %s", strerror(errno));
	close(fd);
}

void eat_memory(void)
{
	for (;;) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		if (p != MAP_FAILED)
			memset(p, 1, 1 << 20);
	}
}

/* The report */

static bool settled(void)
{
	return counter("windows_open") <= 0 && counter("sends_in_flight") <= 0 &&
	       pins_held() == pins_before;
}

static const struct life_case *life_case;

static void run(unsigned int __always_unused i)
{
	life_case->run();
	finish(report->lost ? CASE_LOST : CASE_PASSED, "%s", report->where);
}

static struct verdict run_once(const char *name)
{
	unsigned long start;
	struct verdict v;

	memset(report, 0, sizeof(*report));
	pins_before = pins_held();
	v = case_run(run, LIMIT_S);
	for (start = seconds(); seconds() - start < SETTLE_S && !settled();)
		nap_ms(20);
	if (!settled()) {
		ksft_print_msg("%s: windows open %ld, sends in flight %ld, pins left %ld\n", name,
			       counter("windows_open"), counter("sends_in_flight"),
			       pins_held() - pins_before);
		v.outcome = CASE_FAILED;
	}
	if (group)
		group_write("memory.max", -1);
	return v;
}

#define CASE_NAME	"%s %s: %s"

static bool selected(const struct life_case *c, unsigned int kind, const char *label,
		     const char *only)
{
	return kind & c->with && strstr(c->name, only) &&
	       case_wanted(CASE_NAME, label, kinds[__builtin_ctz(kind)], c->name);
}

static void run_case(const struct life_case *c, unsigned int kind, const char *label)
{
	unsigned int tries = 0;
	struct verdict v;
	char name[160];
	bool failed;

	snprintf(name, sizeof(name), CASE_NAME, label, kinds[__builtin_ctz(kind)], c->name);
	if (c->group && !group) {
		ksft_print_msg("%s: no memory cgroup\n", name);
		ksft_test_result_skip("%s\n", name);
		return;
	}
	life_case = c;
	with = kind;
	for (v = run_once(name); v.outcome == CASE_LATE && tries < MAX_LATE; tries++) {
		ksft_print_msg("%s: %s: once more\n", name, v.why);
		read_slower();
		v = run_once(name);
	}
	if (v.outcome == CASE_SKIPPED) {
		ksft_print_msg("%s: %s\n", name, v.why);
		ksft_test_result_skip("%s\n", name);
		return;
	}
	ksft_print_msg("fault: %s: runs=%u lost=%lu errno=%s\n", name, report->runs, report->lost,
		       report->err ? strerrorname_np(report->err) : "0");
	failed = v.outcome == CASE_FAILED || v.outcome == CASE_LATE;
	if (failed || (v.outcome == CASE_LOST && !control))
		ksft_print_msg("%s: %s\n", name, v.why);
	else if (v.outcome == CASE_PASSED && control && c->forks)
		ksft_print_msg("%s: this kernel keeps the data by itself\n", name);
	if (failed || !report->runs)
		ksft_test_result_fail("%s\n", name);
	else if (!control || !c->forks)
		ksft_test_result(v.outcome == CASE_PASSED, "%s\n", name);
	else if (v.outcome == CASE_PASSED && kind != DMA_GET)
		ksft_test_result_skip("%s\n", name);
	else
		ksft_test_result(v.outcome == CASE_LOST, "%s\n", name);
}

static void __noreturn usage(int status)
{
	printf("Usage: lifetime [options] nfs DIRECTORY | dma DEVICE | send ADDRESS\n"
	       "DIRECTORY on a slow file system with O_DIRECT; ADDRESS of peer\n"
	       "  -C, --control    nothing protects the reads: what can be lost must be\n"
	       "  -c, --case TEXT  only cases with this in their names\n"
	       "  -g, --group DIR  a memory cgroup of version 2, empty\n"
	       "  -n, --name TEXT  before the names of the tests\n"
	       "  -l, --list       the cases\n");
	exit(status);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "control", no_argument, NULL, 'C' },
		{ "case", required_argument, NULL, 'c' },
		{ "group", required_argument, NULL, 'g' },
		{ "name", required_argument, NULL, 'n' },
		{ "list", no_argument, NULL, 'l' },
		{ "exit", no_argument, NULL, 'e' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	const char *only = "", *label = NULL, *on;
	const struct life_case *cases = read_cases;
	unsigned int nr = nr_read_cases, mask, i, kind, n = 0;
	bool list = false;
	int o;

	while ((o = getopt_long(argc, argv, "Cc:g:n:lh", longs, NULL)) != -1) {
		switch (o) {
		case 'C':
			control = true;
			break;
		case 'c':
			only = optarg;
			break;
		case 'g':
			group = optarg;
			break;
		case 'n':
			label = optarg;
			break;
		case 'l':
			list = true;
			break;
		case 'e':
			return EXEC_STATUS;
		default:
			usage(o == 'h' ? 0 : KSFT_FAIL);
		}
	}
	for (i = 0; list && i < nr_read_cases; i++)
		printf("%s\n", read_cases[i].name);
	for (i = 0; list && i < nr_send_cases; i++)
		printf("send: %s\n", send_cases[i].name);
	if (list)
		return 0;
	ksft_print_header();
	if (optind == argc)
		ksft_exit_skip("no target given: lifetime.sh does\n");
	if (optind + 2 != argc)
		usage(KSFT_FAIL);
	on = argv[optind];
	mask = READS;
	if (!strcmp(on, "dma")) {
		mask = control ? DMA_GET : DMAS;
	} else if (!strcmp(on, "send")) {
		mask = SENDS;
		cases = send_cases;
		nr = nr_send_cases;
	} else if (strcmp(on, "nfs")) {
		usage(KSFT_FAIL);
	}
	report = shared_memory(sizeof(*report));
	signal(SIGPIPE, SIG_IGN);
	if (cases == read_cases)
		read_setup(argv[optind + 1]);
	else
		send_setup(argv[optind + 1]);

	for (i = 0; i < nr; i++)
		for (kind = 1; kind <= SEND_REGISTERED; kind <<= 1)
			n += selected(&cases[i], kind & mask, label ?: on, only);
	if (!n)
		ksft_exit_fail_msg("no such case\n");
	ksft_set_plan(n);
	for (i = 0; i < nr; i++)
		for (kind = 1; kind <= SEND_REGISTERED; kind <<= 1)
			if (selected(&cases[i], kind & mask, label ?: on, only))
				run_case(&cases[i], kind, label ?: on);
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "case.h"
#include "clock.h"

struct verdict *verdict;
enum outcome (*on_finish)(enum outcome outcome, const char *why);

void finish(enum outcome outcome, const char *fmt, ...)
{
	char why[sizeof(verdict->why)];
	int err = errno;
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	errno = err;
	if (on_finish)
		outcome = on_finish(outcome, why);
	if (!verdict && outcome == CASE_SKIPPED)
		ksft_exit_skip("%s\n", why);
	if (!verdict)
		ksft_exit_fail_msg("%s\n", why);
	/* The first one knows why. */
	if (verdict->outcome == CASE_RUNNING) {
		snprintf(verdict->why, sizeof(verdict->why), "%s", why);
		verdict->outcome = outcome;
	}
	_exit(0);
}

void *shared_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	return p;
}

/* Processes */

struct process {
	pid_t pid;
	double deadline_ms;
	bool ended;
	struct verdict *v;
};

static void start(const struct cases *cases, struct process *p, unsigned int i)
{
	fflush(stdout);
	p->pid = fork();
	if (p->pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	if (!p->pid) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		verdict = p->v;
		cases->run(i);
		_exit(KSFT_FAIL);
	}
	setpgid(p->pid, p->pid);
	p->deadline_ms = now_ms() + cases->limit_s * 1e3;
}

static void end(struct process *p, int status)
{
	struct verdict *v = p->v;

	kill(-p->pid, SIGKILL);
	p->ended = true;
	if (v->outcome != CASE_RUNNING)
		return;
	v->outcome = CASE_FAILED;
	if (WIFSIGNALED(status))
		snprintf(v->why, sizeof(v->why), "ended by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(v->why, sizeof(v->why), "ended with %d and no verdict",
			 WEXITSTATUS(status));
}

static void expire(struct process *p, unsigned int limit_s)
{
	kill(-p->pid, SIGKILL);
	/* Uninterruptible sleep would outlast us: leave it behind. */
	usleep(200000);
	waitpid(p->pid, NULL, WNOHANG);
	p->ended = true;
	p->v->outcome = CASE_FAILED;
	snprintf(p->v->why, sizeof(p->v->why), "not done in %u s", limit_s);
}

void cases_run(const struct cases *cases)
{
	struct process *processes = calloc(cases->nr, sizeof(*processes));
	size_t size = cases->nr * sizeof(struct verdict);
	struct verdict *verdicts = shared_memory(size);
	unsigned int started = 0, reported = 0, running = 0, i;
	bool alone = false;
	int status;
	pid_t pid;

	if (!processes)
		ksft_exit_fail_msg("no memory\n");
	while (reported < cases->nr) {
		while (started < cases->nr && running < cases->at_once) {
			bool next_alone = cases->alone && cases->alone(started);

			if (running && (alone || next_alone))
				break;
			alone = next_alone;
			processes[started].v = &verdicts[started];
			start(cases, &processes[started], started);
			started++;
			running++;
		}
		pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			usleep(2000);
		for (i = reported; i < started; i++) {
			struct process *p = &processes[i];

			if (p->ended)
				continue;
			if (pid > 0 && p->pid == pid)
				end(p, status);
			else if (now_ms() > p->deadline_ms)
				expire(p, cases->limit_s);
			running -= p->ended;
		}
		for (; reported < started && processes[reported].ended; reported++)
			cases->report(reported, &verdicts[reported]);
	}
	munmap(verdicts, size);
	free(processes);
}

static struct verdict last;

static void report_last(unsigned int i, const struct verdict *v)
{
	last = *v;
}

struct verdict case_run(void (*run)(unsigned int i), unsigned int limit_s)
{
	cases_run(&(struct cases){
		.nr = 1, .at_once = 1, .limit_s = limit_s, .run = run, .report = report_last,
	});
	return last;
}

bool case_wanted(const char *fmt, ...)
{
	const char *line = getenv("PIN_GUARD_CASES");
	char name[200], pattern[200];
	va_list args;
	size_t len;

	if (!line || !*line)
		return true;
	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	for (; *line; line += len + (line[len] == '\n')) {
		len = strcspn(line, "\n");
		snprintf(pattern, sizeof(pattern), "%.*s", (int)len, line);
		if (!fnmatch(pattern, name, 0))
			return true;
	}
	return false;
}

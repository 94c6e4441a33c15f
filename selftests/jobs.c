// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "jobs.h"
#include "kselftest.h"

struct process {
	pid_t pid;
	time_t deadline;
	bool ended;
};

static time_t now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static void start(const struct jobs *jobs, struct process *p, unsigned int i)
{
	fflush(stdout);
	p->pid = fork();
	if (p->pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	if (!p->pid) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		jobs->run(i);
		_exit(KSFT_FAIL);
	}
	setpgid(p->pid, p->pid);
	p->deadline = now_s() + jobs->limit_s;
}

static void end(const struct jobs *jobs, struct process *p, unsigned int i, int status)
{
	char why[100];

	if (WIFSIGNALED(status))
		snprintf(why, sizeof(why), "ended by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(why, sizeof(why), "ended with %d and no verdict", WEXITSTATUS(status));
	p->ended = true;
	jobs->ended(i, true, why);
}

static void expire(const struct jobs *jobs, struct process *p, unsigned int i)
{
	char why[100];

	kill(-p->pid, SIGKILL);
	/* Uninterruptible sleep would outlast us: leave it behind. */
	usleep(200000);
	waitpid(p->pid, NULL, WNOHANG);
	snprintf(why, sizeof(why), "not done in %u s", jobs->limit_s);
	p->ended = true;
	jobs->ended(i, false, why);
}

void jobs_run(const struct jobs *jobs)
{
	struct process *processes = calloc(jobs->nr, sizeof(*processes));
	unsigned int started = 0, reported = 0, running = 0, i;
	bool alone = false;
	int status;
	pid_t pid;

	if (!processes)
		ksft_exit_fail_msg("no memory\n");
	while (reported < jobs->nr) {
		while (started < jobs->nr && running < jobs->at_once) {
			bool next_alone = jobs->alone && jobs->alone(started);

			if (running && (alone || next_alone))
				break;
			alone = next_alone;
			start(jobs, &processes[started], started);
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
				end(jobs, p, i, status);
			else if (now_s() > p->deadline)
				expire(jobs, p, i);
			running -= p->ended;
		}
		while (reported < started && processes[reported].ended)
			jobs->report(reported++);
	}
	free(processes);
}

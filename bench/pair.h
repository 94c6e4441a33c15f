/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Two workers, each on a processor of its own, which do the same work alone or at once. If they
 * share nothing, both at once take as long as one alone.
 */
#ifndef _PIN_GUARD_PAIR_H
#define _PIN_GUARD_PAIR_H

#include <err.h>
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct worker {
	_Alignas(64) sem_t go;
	sem_t done;
	uint64_t start, end;
	int kind;		/* of the work */
};

/* Shared with the workers, which may be processes. */
struct pair {
	struct worker worker[2];
	int wanted;
	int arrived;
	/* Once per worker: returns what @work needs. */
	void *(*prepare)(int cpu);
	/* What is measured. */
	void (*work)(void *data, int kind);
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void pair_wait(sem_t *sem)
{
	while (sem_wait(sem))
		;	/* EINTR */
}

static struct pair *pair_new(void *(*prepare)(int cpu), void (*work)(void *data, int kind))
{
	struct pair *pair = mmap(NULL, sizeof(*pair), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (pair == MAP_FAILED)
		err(1, "mmap");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		errx(1, "one processor; fix: PIN_GUARD_CPUS=2");
	pair->prepare = prepare;
	pair->work = work;
	for (int i = 0; i < 2; i++) {
		if (sem_init(&pair->worker[i].go, 1, 0) || sem_init(&pair->worker[i].done, 1, 0))
			err(1, "sem_init");
	}
	return pair;
}

/* A worker: in a thread or process of its own. Does not return. */
static void pair_worker(struct pair *pair, int i)
{
	struct worker *w = &pair->worker[i];
	cpu_set_t cpus;
	void *data;

	CPU_ZERO(&cpus);
	CPU_SET(i, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		err(1, "sched_setaffinity");
	data = pair->prepare(i);
	for (;;) {
		sem_post(&w->done);
		pair_wait(&w->go);
		__atomic_add_fetch(&pair->arrived, 1, __ATOMIC_ACQ_REL);
		while (__atomic_load_n(&pair->arrived, __ATOMIC_ACQUIRE) < pair->wanted)
			;
		w->start = now();
		pair->work(data, w->kind);
		w->end = now();
	}
}

/* In a process of its own, which ends with this one. */
static void pair_fork(struct pair *pair, int i)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pair_worker(pair, i);
}

/* Waits for a worker that has begun to prepare itself, or to work. */
static void pair_ready(struct pair *pair, int i)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 60;
	while (sem_timedwait(&pair->worker[i].done, &limit))
		if (errno != EINTR)
			err(1, "worker %d", i);
}

/* Returns the time that the workers from @first to @last take, at once, in nanoseconds. */
static uint64_t pair_run(struct pair *pair, int first, int last, int kind)
{
	uint64_t start = UINT64_MAX, end = 0;

	pair->arrived = 0;
	pair->wanted = last - first + 1;
	for (int i = first; i <= last; i++) {
		pair->worker[i].kind = kind;
		sem_post(&pair->worker[i].go);
	}
	for (int i = first; i <= last; i++) {
		struct worker *w = &pair->worker[i];

		pair_ready(pair, i);
		start = w->start < start ? w->start : start;
		end = w->end > end ? w->end : end;
	}
	return end - start;
}

/*
 * Prints samples of one alone (base, and again) and of both (test), which take turns. Each kind of
 * work is a case, called @names[kind].
 */
static void pair_measure(struct pair *pair, const char *const *names, int kinds, int rounds)
{
	static const char *const series[] = { "base", "test", "again" };

	for (int i = 0; i < 2; i++)
		pair_ready(pair, i);
	/* The first round is for the caches. */
	for (int round = -1; round < rounds; round++) {
		for (int i = 0; i < 3 * kinds; i++) {
			/* Which of the three goes first changes from round to round. */
			int kind = i / 3, which = (round + 1 + i) % 3;
			/* Either of the two is the one, in turn. */
			int one = (round + 1) / 3 % 2;
			uint64_t ns = which == 1 ? pair_run(pair, 0, 1, kind) :
						   pair_run(pair, one, one, kind);

			if (round >= 0)
				printf("scaling/%s %s %llu\n", names[kind], series[which],
				       (unsigned long long)ns);
		}
	}
}

#endif /* _PIN_GUARD_PAIR_H */

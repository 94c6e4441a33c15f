// SPDX-License-Identifier: GPL-2.0
/* lifetime: reads over NFS, and requests of /dev/pin_guard_dma. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "io_kinds.h"
#include "lifetime.h"
#include "pin_guard_dma.h"

#define TARGET_BYTES	(8UL << 20)
#define DMA_MS		800		/* of a request, at least */
#define BIG		(1UL << 30)	/* to fork it takes a while */
#define FORKERS		4		/* some of them always wait for the mmap lock */
#define HEADROOM	(3L << 20)	/* for a fork that copies no page of the read */

static struct target target;
static struct memory mem;
static struct io io = { .mem = &mem };

/* One read, in flight */

static const struct io_kind *io_kind_of(unsigned int kind)
{
	return io_kind_by_name(kind == PREAD ? "pread" : kind == LIBAIO ? "libaio" :
			       kind == URING ? "io_uring" : kind == URING_ASYNC ?
			       "io_uring_async" : "dma");
}

static void prepare_pages(unsigned int pages)
{
	static struct memory_kind kind;

	kind = mem_anon;
	kind.pages = pages;
	if (with & DMA_GET)
		target.mode = PIN_GUARD_DMA_GET;
	else if (with & DMA_WINDOW)
		target.mode = PIN_GUARD_DMA_WINDOW;
	else if (with & DMA_PIN)
		target.mode = PIN_GUARD_DMA_PIN;
	else
		target.mode = PIN_GUARD_DMA_PIN_LONGTERM;
	io.kind = io_kind_of(with);
	io.target = &target;
	io.fd = target.fd;
	io.kind->setup(&io);
	memory_map(&mem, &kind, false);
}

static void prepare(void)
{
	prepare_pages(2);
}

static void submit(void)
{
	io.kind->submit(&io);
	nap_ms(target.delay_ms);
}

/* Writes to every page, and changes nothing. */
static void touch(void)
{
	size_t i;

	for (i = 0; i < mem.size; i += PAGE) {
		unsigned char zero = 0;

		__asm__ volatile("" : "+r" (zero));
		__atomic_fetch_add(&mem.base[i], zero, __ATOMIC_RELAXED);
	}
}

static void __noreturn idle(void)
{
	for (;;)
		pause();
}

static pid_t fork_child(void)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		idle();
	}
	return pid;
}

/* What a read in flight is lost by; the child lives on. */
static pid_t fork_and_touch(void)
{
	pid_t pid = fork_child();

	if (pid < 0)
		give_up("fork: %s", strerror(errno));
	touch();
	return pid;
}

static void child_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static size_t bytes_lost(char *where, size_t size)
{
	size_t i, start = (char *)mem.seg[0].iov_base - mem.base, lost = 0;

	for (i = 0; i < mem.size; i++) {
		bool inside = i >= start && i < start + mem.seg[0].iov_len;
		unsigned char came = mem.base[i];
		unsigned char expected = inside ? byte_of_target(&target, i - start) :
						  byte_before(i);

		if (came == expected)
			continue;
		if (!inside || came != byte_before(i))
			give_up("expected 0x%02x, came 0x%02x at byte %zu of page %zu: no content of before",
			      expected, came, i % PAGE, i / PAGE);
		if (!lost++)
			snprintf(where, size,
				 "expected 0x%02x, came 0x%02x (of before the read) at byte %zu of page %zu",
				 expected, came, i % PAGE, i / PAGE);
	}
	return lost;
}

static void look(void)
{
	char where[200] = "";

	count_lost(bytes_lost(where, sizeof(where)), where);
	count_run();
}

static void must_have_read(void)
{
	if (io.result != (long)mem.seg[0].iov_len)
		give_up("the read: expected %zu bytes, came %ld", mem.seg[0].iov_len, io.result);
}

static void complete(void)
{
	io.kind->wait(&io);
	must_have_read();
	look();
}

/* Something is held for what is in flight: or the case would show nothing. */
static void must_be_held(void)
{
	if (with & (DMA_PIN | DMA_LONGTERM)) {
		if (pins_held() <= pins_before)
			late("no pin is held in flight");
	} else if (!control && !(with & DMA_GET) && counter("windows_open") < 1) {
		late("no window is open in flight");
	}
}

/*
 * Ends
 */

static void in_flight_and_wait(void)
{
	prepare();
	submit();
	victim_ready();
	io.kind->wait(&io);
	idle();
}

static void killed_in_flight(void)
{
	struct victim v = victim_start(in_flight_and_wait);

	victim_await_ready(&v);
	must_be_held();
	kill(v.pid, SIGKILL);
	victim_must_end(&v, SIGKILL, 0);
	/* The device is not done, whoever asked for it. */
	if (with & DMAS)
		must_be_busy("pin_guard_dma");
}

static void complete_and_idle(void)
{
	prepare();
	victim_ready();
	io.kind->submit(&io);
	complete();
	idle();
}

static void killed_at_completion(void)
{
	struct victim v[6];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(v); i++)
		v[i] = victim_start(complete_and_idle);
	for (i = 0; i < ARRAY_SIZE(v); i++)
		victim_await_ready(&v[i]);
	/* latency_ms is a bit less than a read takes. */
	nap_ms(target.latency_ms);
	for (i = 0; i < ARRAY_SIZE(v); i++) {
		kill(v[i].pid, SIGKILL);
		victim_must_end(&v[i], SIGKILL, 0);
		nap_ms(target.latency_ms / 10);
	}
}

static void exit_in_flight(void)
{
	prepare();
	submit();
	_exit(EXEC_STATUS);
}

static void exits_in_flight(void)
{
	struct victim v = victim_start(exit_in_flight);

	victim_must_end(&v, 0, EXEC_STATUS);
}

static void exec_in_flight(void)
{
	prepare();
	submit();
	exec_self();
}

static void execs_in_flight(void)
{
	struct victim v = victim_start(exec_in_flight);

	victim_must_end(&v, 0, EXEC_STATUS);
}

static void eat_in_flight(void)
{
	group_join();
	prepare();
	submit();
	must_be_held();
	victim_ready();
	group_write("memory.max", 32 << 20);
	eat_memory();
}

static void oom_in_flight(void)
{
	long before = group_read("memory.events", "oom_kill");
	struct victim v = victim_start(eat_in_flight);

	victim_await_ready(&v);
	victim_must_end(&v, SIGKILL, 0);
	if (group_read("memory.events", "oom_kill") <= before)
		give_up("memory.events counts no oom_kill");
}

/*
 * The process lives on
 */

static void signals_in_flight(void)
{
	pid_t child;

	prepare();
	storm_begin();
	submit();
	must_be_held();
	child = fork_and_touch();
	complete();
	storm_end();
	child_end(child);
}

static void *submit_and_end(void *arg)
{
	io.kind->submit(&io);
	return arg;
}

static void submitter_ends(void)
{
	pthread_t thread;
	pid_t child;

	prepare();
	if (pthread_create(&thread, NULL, submit_and_end, NULL))
		give_up("no thread");
	pthread_join(thread, NULL);
	nap_ms(target.delay_ms);
	must_be_held();
	child = fork_and_touch();
	complete();
	child_end(child);
}

static int submit_and_idle(void *arg)
{
	io.kind->submit(&io);
	atomic_store((atomic_bool *)arg, true);
	for (;;)
		pause();
	return 0;
}

/* Of two processes with one memory the one that has submitted is killed. */
static void sharer_is_killed(void)
{
	static long double stack[4096];	/* aligned as it must be */
	atomic_bool submitted = false;
	pid_t sharer, child;

	prepare();
	sharer = clone(submit_and_idle, stack + ARRAY_SIZE(stack), CLONE_VM | CLONE_FILES | SIGCHLD,
		       &submitted);
	if (sharer < 0)
		give_up("clone: %s", strerror(errno));
	await(atomic_load(&submitted), "the submission");
	nap_ms(target.delay_ms);
	child_end(sharer);
	must_be_held();
	child = fork_and_touch();
	complete();
	child_end(child);
}

static void cancelled(void)
{
	pid_t child;
	long answer;

	prepare();
	submit();
	answer = uring_cancel(&io);
	if (answer != -ENOENT && answer != -EALREADY)
		give_up("cancel of a read that the file system has: expected ENOENT or EALREADY, came %ld",
		      answer);
	set_errno(-answer);
	must_be_held();
	child = fork_and_touch();
	complete();
	child_end(child);
}

/* Cancelled before the file system has it, or not. */
static void cancelled_at_once(void)
{
	unsigned int i;
	long answer;

	for (i = 0; i < 6; i++) {
		prepare();
		io.kind->submit(&io);
		usleep(i * i * 500);
		answer = uring_cancel(&io);
		if (answer && answer != -ENOENT && answer != -EALREADY)
			give_up("cancel: came %ld", answer);
		io.kind->wait(&io);
		if (io.result == -ECANCELED || io.result == -EINTR) {
			set_errno(-io.result);
			count_run();
		} else {
			must_have_read();
			look();
		}
		uring_close(&io);
		memory_unmap(&mem);
	}
}

static void ring_is_closed(void)
{
	char where[200] = "";
	unsigned int naps;
	pid_t child;

	prepare();
	submit();
	uring_close(&io);
	must_be_held();
	child = fork_and_touch();
	/* Nobody tells of the end. */
	for (naps = 0; naps < 100 && bytes_lost(where, sizeof(where)); naps++)
		nap_ms(target.latency_ms / 20);
	look();
	child_end(child);
}

/*
 * Before the submission: while it waits for a fork
 */

static atomic_bool stop;

static void *forker(void *arg)
{
	while (!atomic_load(&stop)) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid < 0)
			give_up("fork: %s", strerror(errno));
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	return arg;
}

static void *toucher(void *arg)
{
	while (!atomic_load(&stop)) {
		touch();
		usleep(500);
	}
	return arg;
}

static pthread_t thread_start(void *(*body)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, NULL))
		give_up("no thread");
	return thread;
}

static pthread_t forkers[FORKERS];

static void forkers_start(void)
{
	char *big = mmap(NULL, BIG, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned int i;

	if (big == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	madvise(big, BIG, MADV_NOHUGEPAGE);
	/* Zero pages will do, with one other. */
	*big = 1;
	if (madvise(big, BIG, MADV_POPULATE_READ))
		give_up("MADV_POPULATE_READ: %s", strerror(errno));
	for (i = 0; i < FORKERS; i++)
		forkers[i] = thread_start(forker);
}

static void read_and_fork(void)
{
	/* As many submissions as can be. */
	if (target.dma)
		target.latency_ms = 1;
	prepare();
	forkers_start();
	victim_ready();
	for (;;) {
		io.kind->submit(&io);
		io.kind->wait(&io);
	}
}

static void killed_before(void)
{
	unsigned int i;

	for (i = 0; i < 3; i++) {
		struct victim v = victim_start(read_and_fork);
		long before;

		victim_await_ready(&v);
		nap_ms(target.delay_ms);
		before = counter("submissions_waited");
		if (!control && !(with & DMA_GET))
			await(counter("submissions_waited") > before, "a submission waits for a fork");
		kill(v.pid, SIGKILL);
		victim_must_end(&v, SIGKILL, 0);
	}
}

static void signals_before(void)
{
	long before = counter("submissions_waited");
	bool counts = !control && with & (READS | DMA_WINDOW);
	pthread_t thread;
	unsigned int i;

	prepare();
	forkers_start();
	thread = thread_start(toucher);
	storm_begin();
	for (i = 0; i < 5 || (counts && counter("submissions_waited") == before); i++) {
		size_t at;

		for (at = 0; at < mem.seg[0].iov_len; at++) {
			size_t offset = (char *)mem.seg[0].iov_base - mem.base + at;

			__atomic_store_n(&mem.base[offset], byte_before(offset), __ATOMIC_RELAXED);
		}
		io.kind->submit(&io);
		complete();
	}
	storm_end();
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	for (i = 0; i < FORKERS; i++)
		pthread_join(forkers[i], NULL);
}

/*
 * Memory that is short
 */

static void fork_at_the_limit(void)
{
	bool protected = !control && !(with & DMA_GET);
	pid_t child;
	int err;

	group_join();
	/* There is nobody to be killed. */
	oom_score(-1000);
	prepare_pages(TARGET_BYTES / PAGE);
	submit();
	must_be_held();
	group_write("memory.max", group_read("memory.current", "") + HEADROOM);
	child = fork_child();
	err = child < 0 ? errno : 0;
	/* Without room the write would wait for it. */
	group_write("memory.max", -1);
	touch();
	if (err != (protected ? ENOMEM : 0))
		give_up("fork: expected %s, came %s", protected ? "ENOMEM" : "a child", strerror(err));
	set_errno(err);
	complete();
	if (child > 0)
		child_end(child);
	/* With room again all is as ever. */
	child_end(fork_and_touch());
}

static void fork_beyond_the_limit(void)
{
	long kills = group_read("memory.events", "oom_kill");
	pid_t child;
	int err;

	group_join();
	prepare_pages(TARGET_BYTES / PAGE);
	submit();
	must_be_held();
	victim_ready();
	group_write("memory.max", group_read("memory.current", "") + HEADROOM);
	child = fork_child();
	err = child < 0 ? errno : 0;
	touch();
	group_write("memory.max", -1);
	complete();
	if (err && err != ENOMEM)
		give_up("fork: expected ENOMEM, came %s", strerror(err));
	if (!err && group_read("memory.events", "oom_kill") == kills)
		give_up("memory was not short: fork did not fail, and nobody was killed");
	set_errno(err);
	if (child > 0)
		child_end(child);
	_exit(0);
}

/* The OOM killer takes the parent or the child, or fork fails; who lives has its data. */
static void oom_kill_at_fork(void)
{
	struct victim v = victim_start(fork_beyond_the_limit);
	int status;

	victim_await_ready(&v);
	waitpid(v.pid, &status, 0);
	case_goes_on();
	if (WIFSIGNALED(status) ? WTERMSIG(status) != SIGKILL : WEXITSTATUS(status))
		give_up("expected an exit, or SIGKILL, came status 0x%x", status);
	count_run();
}

#define VECTORS		8
#define SEGMENTS	1000
#define SEGMENT_BYTES	16	/* of a range, at least */

/* What the module keeps of a read's segments is charged, and given back. */
static void segments_are_charged(void)
{
	static struct iovec segments[SEGMENTS];
	struct io_event events[VECTORS];
	struct iocb cb = {
		.aio_lio_opcode = IOCB_CMD_PREADV, .aio_nbytes = SEGMENTS,
		.aio_buf = (unsigned long)segments, .aio_fildes = target.fd,
	}, *cbs = &cb;
	aio_context_t ctx = 0;
	long before, in_flight;
	unsigned int i;

	group_join();
	prepare_pages(4);
	for (i = 0; i < SEGMENTS; i++)
		segments[i] = (struct iovec){ mem.base + i * 16, 4 };
	if (syscall(SYS_io_setup, VECTORS, &ctx))
		give_up("io_setup: %s", strerror(errno));
	before = group_read("memory.stat", "slab");
	for (i = 0; i < VECTORS; i++)
		if (syscall(SYS_io_submit, ctx, 1, &cbs) != 1)
			give_up("io_submit: %s", strerror(errno));
	must_be_held();
	in_flight = group_read("memory.stat", "slab") - before;
	if (syscall(SYS_io_getevents, ctx, VECTORS, VECTORS, events, NULL) != VECTORS)
		give_up("io_getevents: %s", strerror(errno));
	for (i = 0; i < VECTORS; i++)
		if (events[i].res != 4 * SEGMENTS)
			give_up("a read: expected %u bytes, came %lld", 4 * SEGMENTS,
			      (long long)events[i].res);
	/* Without the module it is the control. */
	if (control != (in_flight < VECTORS * SEGMENTS * SEGMENT_BYTES))
		give_up("%u reads of %u segments took %ld bytes of slab", VECTORS, SEGMENTS,
		      in_flight);
	count_run();
}

/*
 * The device alone
 */

static struct pin_guard_dma_submit request(void *addr, size_t len)
{
	return (struct pin_guard_dma_submit){
		.addr = (unsigned long)addr, .len = len, .pattern = -1, .mode = target.mode,
		.delay_ms = target.latency_ms,
	};
}

static void pass_and_exit(void)
{
	prepare();
	submit();
	victim_pass_fd(io.fd);
	_exit(EXEC_STATUS);
}

/* Who waits is another process, and the memory is gone. */
static void file_is_passed_on(void)
{
	struct victim v = victim_start(pass_and_exit);
	struct pin_guard_dma_wait w = { .id = 1 };
	int fd = victim_take_fd(&v);

	victim_must_end(&v, 0, EXEC_STATUS);
	must_be_held();
	if (ioctl(fd, PIN_GUARD_DMA_WAIT, &w))
		give_up("PIN_GUARD_DMA_WAIT: %s", strerror(errno));
	if (w.result != 2 * PAGE - 1024)
		give_up("expected %lu bytes, came %lld", 2 * PAGE - 1024, w.result);
	close(fd);
}

static void wait_for_other(void)
{
	struct pin_guard_dma_wait w = { .id = 1 };

	victim_ready();
	io.kind->wait(&io);
	if (!ioctl(io.fd, PIN_GUARD_DMA_WAIT, &w) || errno != ENOENT)
		give_up("a request is waited for twice");
	_exit(io.result == (long)mem.seg[0].iov_len ? EXEC_STATUS : 1);
}

/* Who waits is a child that has the file, while the memory is ours. */
static void another_waits(void)
{
	struct victim v;

	prepare();
	io.kind->submit(&io);
	v = victim_start(wait_for_other);
	victim_await_ready(&v);
	touch();
	must_be_held();
	victim_must_end(&v, 0, EXEC_STATUS);
	look();
}

static void file_is_closed(void)
{
	char where[200] = "";
	unsigned int naps;
	pid_t child;

	prepare();
	submit();
	close(io.fd);
	must_be_held();
	must_be_busy("pin_guard_dma");
	child = fork_and_touch();
	for (naps = 0; naps < 100 && bytes_lost(where, sizeof(where)); naps++)
		nap_ms(target.latency_ms / 20);
	look();
	child_end(child);
}

static void on_signal(int __always_unused sig)
{
}

static void signal_in_wait(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct pin_guard_dma_wait w = { .id = 1 };
	struct itimerspec soon = { .it_value.tv_nsec = target.delay_ms * 1000000L };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	timer_t timer;

	sigaction(SIGUSR1, &action, NULL);
	timer_create(CLOCK_MONOTONIC, &event, &timer);
	prepare();
	io.kind->submit(&io);
	timer_settime(timer, 0, &soon, NULL);
	if (!ioctl(io.fd, PIN_GUARD_DMA_WAIT, &w))
		skip("the request was over before the signal came");
	if (errno != EINTR)
		give_up("PIN_GUARD_DMA_WAIT: expected EINTR, came %s", strerror(errno));
	set_errno(EINTR);
	complete();
}

/* Requests that are charged to nobody, but for their windows. */
#define OTHERS		4096
#define MOST_OTHERS	(OTHERS + 32768)
#define OTHERS_MS	10000
#define OTHER_FILES	64	/* a request is looked up among those of its file */
#define WINDOW_BYTES	64	/* at least */

/* Returns 0 or an errno. */
static int submit_others(const int *files, char *p, unsigned int nr, unsigned long start)
{
	struct pin_guard_dma_submit other;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		other = request(p + i % PAGE, 1);
		other.delay_ms = OTHERS_MS;
		if (ioctl(files[i % OTHER_FILES], PIN_GUARD_DMA_SUBMIT, &other))
			return errno;
	}
	if (seconds() - start >= OTHERS_MS / 1000)
		late("requests are over before the last is submitted");
	return 0;
}

/* One window too many is refused; the others go on, and so does what comes after them. */
static void windows_at_the_limit(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool charged = with & DMA_WINDOW;
	int files[OTHER_FILES], err, i, limit;
	unsigned long start;
	pid_t child;
	long slab;

	group_join();
	/* There is nobody to be killed. */
	oom_score(-1000);
	p[0] = 1;
	prepare();
	for (i = 0; i < OTHER_FILES; i++) {
		files[i] = open(target.path, O_RDWR | O_CLOEXEC);
		if (files[i] < 0)
			give_up("%s: %s", target.path, strerror(errno));
	}
	start = seconds();
	slab = group_read("memory.stat", "slab");
	err = submit_others(files, p, OTHERS, start);
	if (err)
		give_up("%u requests: %s", OTHERS, strerror(err));
	slab = group_read("memory.stat", "slab") - slab;
	/* A file that is opened at the limit is refused, too. */
	limit = group_open("memory.max", O_WRONLY);
	group_write("memory.max", group_read("memory.current", "") + (1 << 20));
	if (charged)
		err = submit_others(files, p, MOST_OTHERS - OTHERS, start);
	if (write(limit, "max", 3) != 3)
		give_up("memory.max: %s", strerror(errno));
	close(limit);
	submit();
	must_be_held();
	child = fork_and_touch();
	set_errno(err);
	complete();
	child_end(child);
	for (i = 0; i < OTHER_FILES; i++)
		close(files[i]);
	if (charged && slab < OTHERS * WINDOW_BYTES)
		give_up("%u windows: expected %u bytes of slab at least, came %ld", OTHERS,
		      OTHERS * WINDOW_BYTES, slab);
	if (err != (charged ? ENOMEM : 0))
		give_up("a request at the limit: expected %s, came %s", charged ? "ENOMEM" : "none",
		      strerror(err));
	await(control || counter("windows_open") == 0, "the windows are closed");
}

static void over_memlock(void)
{
	struct pin_guard_dma_submit more;
	char *p;

	prepare_pages(17);
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	become_limited(17 * PAGE);
	submit();
	more = request(p, 1);
	if (!ioctl(io.fd, PIN_GUARD_DMA_SUBMIT, &more) || errno != ENOMEM)
		give_up("over RLIMIT_MEMLOCK: expected ENOMEM, came %s", strerror(errno));
	set_errno(ENOMEM);
	victim_ready();
	complete();
	/* Once more, to be killed with it. */
	submit();
	victim_ready();
	idle();
}

/* What is refused leaves alone what is in flight; who is killed gives back the charge. */
static void memlock_is_exceeded(void)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		struct victim v = victim_start(over_memlock);

		victim_await_ready(&v);
		victim_await_ready(&v);
		must_be_held();
		kill(v.pid, SIGKILL);
		victim_must_end(&v, SIGKILL, 0);
		await(pins_held() == pins_before, "the pins come back");
	}
}

#define ENDS(_name, _run)	{ .name = _name, .run = _run, .with = READS | DMAS }
#define LIVES(_name, _run, _with)					\
	{ .name = _name, .run = _run, .forks = true,			\
	  .with = (_with) | ((_with) & DMAS ? DMA_GET : 0) }

const struct life_case read_cases[] = {
	ENDS("SIGKILL in flight", killed_in_flight),
	ENDS("SIGKILL at completion", killed_at_completion),
	{ .name = "SIGKILL before submission", .run = killed_before, .with = READS | DMA_WINDOW },
	ENDS("exit_group in flight", exits_in_flight),
	ENDS("exec in flight", execs_in_flight),
	{ .name = "OOM kill in flight", .run = oom_in_flight, .with = READS | DMAS, .group = true },

	LIVES("signals in flight and at completion", signals_in_flight, READS | DMAS),
	LIVES("signals before submission", signals_before, READS | DMA_WINDOW),
	LIVES("the submitting thread ends", submitter_ends, (READS & ~PREAD) | DMAS),
	LIVES("a submitter that shares the memory is killed", sharer_is_killed, LIBAIO | DMAS),
	LIVES("io_uring cancel in flight", cancelled, URING | URING_ASYNC),
	{ .name = "io_uring cancel at once", .run = cancelled_at_once, .with = URING | URING_ASYNC },
	LIVES("the ring is closed in flight", ring_is_closed, URING | URING_ASYNC),
	{ .name = "fork at a memory cgroup's limit", .run = fork_at_the_limit,
	  .with = READS | DMAS | DMA_GET, .forks = true, .group = true },
	{ .name = "the segments of a read are charged", .run = segments_are_charged,
	  .with = LIBAIO, .group = true },
	{ .name = "OOM kill at fork", .run = oom_kill_at_fork, .with = READS | DMAS, .group = true },

	{ .name = "windows at a memory cgroup's limit", .run = windows_at_the_limit,
	  .with = DMA_WINDOW | DMA_GET, .forks = true, .group = true },
	LIVES("the file is closed in flight", file_is_closed, DMAS),
	LIVES("another process waits", another_waits, DMAS),
	{ .name = "the file is passed on", .run = file_is_passed_on, .with = DMAS },
	{ .name = "a signal in WAIT", .run = signal_in_wait, .with = DMAS },
	{ .name = "RLIMIT_MEMLOCK is exceeded", .run = memlock_is_exceeded, .with = DMA_LONGTERM },
};

const unsigned int nr_read_cases = ARRAY_SIZE(read_cases);

void read_slower(void)
{
	if (target.dma && target.latency_ms < 8 * DMA_MS)
		target.latency_ms *= 2;
}

void read_setup(const char *path)
{
	unsigned char *content = malloc(TARGET_BYTES);
	struct stat st;
	double latency;
	char *name;
	size_t i;
	int fd;

	target.path = path;
	if (!stat(path, &st) && S_ISCHR(st.st_mode)) {
		target.dma = true;
		target.latency_ms = DMA_MS;
		target.delay_ms = DMA_MS / 4;
		return;
	}
	if (asprintf(&name, "%s/lifetime.%d", path, getpid()) < 0)
		ksft_exit_fail_msg("no memory\n");
	for (i = 0; i < TARGET_BYTES; i++)
		content[i] = byte_of_target(&target, i);
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, content, TARGET_BYTES) != TARGET_BYTES || fsync(fd))
		ksft_exit_fail_msg("%s: %s\n", name, strerror(errno));
	close(fd);
	free(content);
	target.path = name;
	target.fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
	unlink(name);
	if (target.fd < 0)
		ksft_exit_skip("%s: open with O_DIRECT: %s\n", name, strerror(errno));
	latency = read_latency(&target);
	target.delay_ms = latency / 4;
	target.latency_ms = latency * 9 / 10;
	ksft_print_msg("%s: a read takes %.0f ms\n", path, latency);
	if (latency < 40)
		ksft_exit_skip("%s: a read takes %.0f ms only: put a delay in its way\n", path,
			       latency);
}

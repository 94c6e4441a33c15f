// SPDX-License-Identifier: GPL-2.0
/* The kinds of I/O, each split into submission and completion. */
#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <fcntl.h>

#include "case.h"
#include "clock.h"
#include "io_kinds.h"
#include "pin_guard_dma.h"

#define DMA_PATTERN	0x7b6a594837261504ULL	/* no byte of it is a byte_before() */

bool file_hole(size_t offset)
{
	return (offset >> PAGE_SHIFT & 3) == 1 || offset >> 16 & 1;
}

unsigned char byte_of_target(const struct target *t, size_t offset)
{
	unsigned int shift = offset % 8 * 8;

	if (t->dma)
		return DMA_PATTERN >> shift;
	if (t->sparse && file_hole(offset))
		return 0;
	/* Stamped with the address, below 0x80: never a byte_before(). */
	return ((offset / 8 + 1) * 0x9e3779b97f4a7c15ULL) >> shift & 0x7f;
}

double read_latency(const struct target *t)
{
	void *buffer = aligned_alloc(PAGE, PAGE);
	double start, ms, best = 1e9;
	int i;

	for (i = 0; i < 3; i++) {
		start = now_ms();
		if (pread(t->fd, buffer, PAGE, 0) != (ssize_t)PAGE)
			give_up("%s: %s", t->path, strerror(errno));
		ms = now_ms() - start;
		best = ms < best ? ms : best;
	}
	free(buffer);
	return best;
}

static long errno_or(long ret)
{
	return ret < 0 ? -errno : ret;
}

/* pread() and preadv(): a thread sleeps in them. */

struct reader {
	pthread_t thread;
	atomic_bool done;
};

static void reader_setup(struct io *io)
{
	io->priv = calloc(1, sizeof(struct reader));
}

static void *reader_main(void *arg)
{
	struct io *io = arg;
	struct reader *r = io->priv;
	const struct iovec *seg = io->mem->seg;

	if (io->kind->vectored && io->write)
		io->result = errno_or(pwritev(io->fd, seg, io->mem->segs, io->offset));
	else if (io->kind->vectored)
		io->result = errno_or(preadv(io->fd, seg, io->mem->segs, io->offset));
	else if (io->write)
		io->result = errno_or(pwrite(io->fd, seg->iov_base, seg->iov_len, io->offset));
	else
		io->result = errno_or(pread(io->fd, seg->iov_base, seg->iov_len, io->offset));
	atomic_store(&r->done, true);
	return NULL;
}

static void reader_submit(struct io *io)
{
	struct reader *r = io->priv;

	atomic_store(&r->done, false);
	if (pthread_create(&r->thread, NULL, reader_main, io))
		give_up("no thread for the read");
}

static bool reader_done(struct io *io)
{
	struct reader *r = io->priv;

	return atomic_load(&r->done);
}

static void reader_wait(struct io *io)
{
	struct reader *r = io->priv;

	pthread_join(r->thread, NULL);
}

/* A system call returns once. */
static bool reader_stray(struct io *io)
{
	return false;
}

/* libaio, by its system calls */

struct aio {
	aio_context_t ctx;
	struct io_event event;
	bool done;
};

static void aio_setup(struct io *io)
{
	struct aio *a = calloc(1, sizeof(*a));

	io->priv = a;
	if (syscall(SYS_io_setup, 1, &a->ctx))
		skip("io_setup: %s", strerror(errno));
}

static void aio_submit(struct io *io)
{
	struct aio *a = io->priv;
	struct iocb cb = {
		.aio_fildes = io->fd,
		.aio_offset = io->offset,
	}, *cbs = &cb;

	if (io->kind->vectored) {
		cb.aio_lio_opcode = io->write ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV;
		cb.aio_buf = (unsigned long)io->mem->seg;
		cb.aio_nbytes = io->mem->segs;
	} else {
		cb.aio_lio_opcode = io->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		cb.aio_buf = (unsigned long)io->mem->seg[0].iov_base;
		cb.aio_nbytes = io->mem->seg[0].iov_len;
	}
	a->done = false;
	if (syscall(SYS_io_submit, a->ctx, 1, &cbs) != 1)
		give_up("io_submit: %s", strerror(errno));
}

static void aio_reap(struct io *io, struct timespec *timeout)
{
	struct aio *a = io->priv;
	long n;

	if (a->done)
		return;
	do {
		n = syscall(SYS_io_getevents, a->ctx, timeout ? 0 : 1, 1, &a->event, timeout);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		give_up("io_getevents: %s", strerror(errno));
	if (n == 1) {
		a->done = true;
		io->result = a->event.res;
	}
}

static bool aio_done(struct io *io)
{
	struct aio *a = io->priv;

	aio_reap(io, &(struct timespec){ 0 });
	return a->done;
}

static void aio_wait(struct io *io)
{
	aio_reap(io, NULL);
}

static bool aio_stray(struct io *io)
{
	struct aio *a = io->priv;

	return syscall(SYS_io_getevents, a->ctx, 0, 1, &a->event, &(struct timespec){ 0 }) != 0;
}

/* io_uring, by its system calls */

enum uring_flavour { URING_PLAIN, URING_ASYNC, URING_FIXED };
enum { URING_READ = 1, URING_CANCEL };	/* user_data */

struct uring {
	int fd;
	unsigned int *sq_tail, *sq_array;
	unsigned int *cq_head, *cq_tail;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	unsigned int cq_mask;
	bool registered;
	struct iovec map[3];
	unsigned int maps;
};

static void *uring_map(struct uring *u, size_t size, off_t what)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, what);

	if (p == MAP_FAILED)
		give_up("mmap of the ring: %s", strerror(errno));
	/* A soak has many, which forks need not copy. */
	madvise(p, size, MADV_DONTFORK);
	u->map[u->maps++] = (struct iovec){ .iov_base = p, .iov_len = size };
	return p;
}

static void uring_setup(struct io *io)
{
	struct io_uring_params p = { 0 };
	struct uring *u = calloc(1, sizeof(*u));
	char *sq, *cq;

	io->priv = u;
	u->fd = syscall(SYS_io_uring_setup, 1, &p);
	if (u->fd < 0)
		skip("io_uring_setup: %s", strerror(errno));
	sq = uring_map(u, p.sq_off.array + p.sq_entries * sizeof(int), IORING_OFF_SQ_RING);
	cq = uring_map(u, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
		       IORING_OFF_CQ_RING);
	u->sqe = uring_map(u, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	u->sq_tail = (unsigned int *)(sq + p.sq_off.tail);
	u->sq_array = (unsigned int *)(sq + p.sq_off.array);
	u->cq_head = (unsigned int *)(cq + p.cq_off.head);
	u->cq_tail = (unsigned int *)(cq + p.cq_off.tail);
	u->cq_mask = *(unsigned int *)(cq + p.cq_off.ring_mask);
	u->cqe = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static void uring_enter(struct uring *u)
{
	u->sq_array[0] = 0;
	__atomic_store_n(u->sq_tail, *u->sq_tail + 1, __ATOMIC_RELEASE);
	while (syscall(SYS_io_uring_enter, u->fd, 1, 0, 0, NULL, 0) != 1)
		if (errno != EINTR)
			give_up("io_uring_enter: %s", strerror(errno));
}

static void uring_submit(struct io *io)
{
	const struct memory *m = io->mem;
	struct uring *u = io->priv;
	struct io_uring_sqe *sqe = u->sqe;

	if (io->kind->flavour == URING_FIXED) {
		struct iovec area = { .iov_base = m->base, .iov_len = m->size };

		if (syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_BUFFERS, &area, 1))
			skip("IORING_REGISTER_BUFFERS: %s", strerror(errno));
		u->registered = true;
	}
	memset(sqe, 0, sizeof(*sqe));
	sqe->user_data = URING_READ;
	sqe->fd = io->fd;
	sqe->off = io->offset;
	if (io->kind->vectored) {
		sqe->opcode = io->write ? IORING_OP_WRITEV : IORING_OP_READV;
		sqe->addr = (unsigned long)m->seg;
		sqe->len = m->segs;
	} else {
		if (io->kind->flavour == URING_FIXED)
			sqe->opcode = io->write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
		else
			sqe->opcode = io->write ? IORING_OP_WRITE : IORING_OP_READ;
		sqe->addr = (unsigned long)m->seg[0].iov_base;
		sqe->len = m->seg[0].iov_len;
	}
	if (io->kind->flavour == URING_ASYNC)
		sqe->flags = IOSQE_ASYNC;
	uring_enter(u);
}

static bool uring_done(struct io *io)
{
	struct uring *u = io->priv;

	return *u->cq_head != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
}

static void uring_wait(struct io *io)
{
	struct uring *u = io->priv;

	while (!uring_done(io))
		if (syscall(SYS_io_uring_enter, u->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 &&
		    errno != EINTR)
			give_up("io_uring_enter: %s", strerror(errno));
	io->result = u->cqe[*u->cq_head & u->cq_mask].res;
	__atomic_store_n(u->cq_head, *u->cq_head + 1, __ATOMIC_RELEASE);
	if (u->registered)
		syscall(SYS_io_uring_register, u->fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
	u->registered = false;
}

long uring_cancel(struct io *io)
{
	struct uring *u = io->priv;
	struct io_uring_cqe *cqe = NULL;
	unsigned int at;

	memset(u->sqe, 0, sizeof(*u->sqe));
	u->sqe->opcode = IORING_OP_ASYNC_CANCEL;
	u->sqe->addr = URING_READ;
	u->sqe->user_data = URING_CANCEL;
	uring_enter(u);
	/* It is answered at once, before or after the read that it ends. */
	for (at = *u->cq_head; at != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE); at++)
		if (u->cqe[at & u->cq_mask].user_data == URING_CANCEL)
			cqe = &u->cqe[at & u->cq_mask];
	if (!cqe)
		give_up("IORING_OP_ASYNC_CANCEL is not answered");
	/* Leaves the read's, if it is there, as the only one. */
	if (at - *u->cq_head == 2 && cqe == &u->cqe[(at - 1) & u->cq_mask]) {
		struct io_uring_cqe answer = *cqe;

		*cqe = u->cqe[*u->cq_head & u->cq_mask];
		__atomic_store_n(u->cq_head, *u->cq_head + 1, __ATOMIC_RELEASE);
		return answer.res;
	}
	__atomic_store_n(u->cq_head, *u->cq_head + 1, __ATOMIC_RELEASE);
	return cqe->res;
}

void uring_close(struct io *io)
{
	struct uring *u = io->priv;

	while (u->maps--)
		munmap(u->map[u->maps].iov_base, u->map[u->maps].iov_len);
	close(u->fd);
}

/* /dev/pin_guard_dma: a request per segment */

struct dma {
	uint64_t id[MAX_SEGS];
};

static void dma_setup(struct io *io)
{
	io->priv = calloc(1, sizeof(struct dma));
	/* Its own open: poll() tells of the requests of one open file. */
	io->fd = open(io->target->path, O_RDWR | O_CLOEXEC);
	if (io->fd < 0)
		give_up("%s: %s", io->target->path, strerror(errno));
}

static void dma_submit(struct io *io)
{
	const struct target *t = io->target;
	struct dma *d = io->priv;
	size_t at = 0;
	unsigned int i;

	for (i = 0; i < io->mem->segs; i++) {
		struct pin_guard_dma_submit s = {
			.addr = (unsigned long)io->mem->seg[i].iov_base,
			.len = io->mem->seg[i].iov_len,
			.pattern = io->stamp ? io->stamp + at / 8 : DMA_PATTERN,
			.flags = io->stamp ? PIN_GUARD_DMA_COUNT : 0,
			.delay_ms = t->latency_ms,
			.mode = t->mode,
			.op = PIN_GUARD_DMA_FILL,
		};

		if (ioctl(io->fd, PIN_GUARD_DMA_SUBMIT, &s))
			give_up("PIN_GUARD_DMA_SUBMIT of %zu bytes: %s", io->mem->seg[i].iov_len,
			    strerror(errno));
		d->id[i] = s.id;
		at += s.len;
	}
}

static bool dma_done(struct io *io)
{
	struct pollfd p = { .fd = io->fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void dma_wait(struct io *io)
{
	struct dma *d = io->priv;
	unsigned int i;

	io->result = 0;
	for (i = 0; i < io->mem->segs; i++) {
		struct pin_guard_dma_wait w = { .id = d->id[i] };

		while (ioctl(io->fd, PIN_GUARD_DMA_WAIT, &w))
			if (errno != EINTR)
				give_up("PIN_GUARD_DMA_WAIT: %s", strerror(errno));
		if (w.result < 0) {
			io->result = w.result;
			continue;
		}
		if (io->result >= 0)
			io->result += w.result;
	}
}

#define READER	.setup = reader_setup, .submit = reader_submit, \
		.done = reader_done, .wait = reader_wait, .stray = reader_stray
#define AIO	.looks_up = true, .setup = aio_setup, .submit = aio_submit, \
		.done = aio_done, .wait = aio_wait, .stray = aio_stray
#define URING	.setup = uring_setup, .submit = uring_submit, \
		.done = uring_done, .wait = uring_wait, .stray = uring_done
#define DMA	.dma = true, .looks_up = true, .setup = dma_setup, \
		.submit = dma_submit, .done = dma_done, .wait = dma_wait

/* The first of each target is the plain one, which every case runs with. */
const struct io_kind io_kinds[] = {
	{ .name = "pread", READER },
	{ .name = "preadv", .vectored = true, READER },
	{ .name = "libaio", AIO },
	{ .name = "libaio_readv", .vectored = true, AIO },
	{ .name = "io_uring", URING },
	{ .name = "io_uring_readv", .vectored = true, URING },
	{ .name = "io_uring_async", .flavour = URING_ASYNC, URING },
	{ .name = "io_uring_fixed", .flavour = URING_FIXED, .pins = true, URING },
	{ .name = "dma", DMA },
	{ .name = "dma_segments", .vectored = true, DMA },
};

const unsigned int nr_io_kinds = ARRAY_SIZE(io_kinds);

const struct io_kind *io_kind_by_name(const char *name)
{
	unsigned int i;

	for (i = 0; i < nr_io_kinds; i++)
		if (!strcmp(io_kinds[i].name, name))
			return &io_kinds[i];
	return NULL;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * io_error: many requests with O_DIRECT in flight at once, some of which must fail.
 *
 * Each kind of memory and I/O has a buffer with requests to neighbouring sectors of a file, and
 * a long one of several bios; what is bad of the file lies in the middle of them. The commands
 * given break and mend the device. Each request must complete once, with EIO if it touches what
 * is bad and in full if not, and nothing else in memory and file may change. A fork hits them
 * all in flight, and the parent writes to the pages that they begin and end in.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "case.h"
#include "io_kinds.h"
#include "pin_guard_dma.h"

#define SECTOR		512UL
#define BLOCK		4096UL			/* of a file system */
#define EXTENT		(256UL << 10)
#define BAD_START	(576UL << 10)		/* in the middle of an extent */
#define BAD_END		(BAD_START + (64 << 10))
#define DMA_MS		300
#define PARENT_MARK	0xff

/* What is awaited of the requests that touch what is bad. */
enum expected {
	EXPECT_NONE, EXPECT_BAD, EXPECT_ALL, EXPECT_EITHER, EXPECT_SOME, EXPECT_DROP,
};

static const char * const expected_names[] = { "none", "bad", "all", "either", "some", "drop" };

static struct {
	enum expected expected;
	bool write, control, cached, stalled, again;
	const char *name, *before, *during, *after, *dma;
	unsigned int limit_s;
} opt = { .expected = EXPECT_BAD, .name = "error", .limit_s = 300 };

/*
 * Of the file: what the requests are for. The first is the long one; the others lie in one
 * extent. Writes to parts of blocks of more than one would wait for each other.
 */
static const struct {
	size_t start, end;
} ranges[] = {
	{ BLOCK, FILE_BYTES - BLOCK },
	{ BAD_START - (32 << 10) - SECTOR, BAD_START - BLOCK },
	{ BAD_START - BLOCK, BAD_START - SECTOR },
	{ BAD_START - SECTOR, BAD_START + SECTOR },
	{ BAD_START + SECTOR, BAD_START + BLOCK },
	{ BAD_START + BLOCK, BAD_END - SECTOR },
	{ BAD_END - SECTOR, BAD_END },
	{ BAD_END, BAD_END + SECTOR },
	{ BAD_END + SECTOR, BAD_END + (64 << 10) },
};

struct request {
	struct io io;
	struct memory mem;		/* its segments; the rest is the buffer's */
	size_t first, end;		/* offsets in the buffer */
	size_t right;			/* so many of its bytes are right */
};

struct buffer {
	const struct io_kind *kind;
	struct memory mem;
	struct request req[ARRAY_SIZE(ranges)];
	struct io dma;
	struct memory dma_mem;
	bool skipped;
	size_t lost, bytes;
	char why[400];
};

static const struct memory_kind * const memory_kinds[] = { &mem_small, &mem_thp, &mem_hugetlb };

static struct buffer *buffers;
static unsigned int nr_buffers;
static struct target file, device = { .dma = true, .mode = PIN_GUARD_DMA_PIN };
static unsigned char content[FILE_BYTES], *image;	/* of a huge page */
static unsigned int runs, errors, short_reads;

static jmp_buf setup_ended;
static bool setting_up;
static char setup_why[400];

/* What a kind of I/O or memory lacks, its buffers are skipped for. */
static enum outcome setup_ends(enum outcome outcome, const char *why)
{
	if (!setting_up || outcome != CASE_SKIPPED)
		return CASE_FAILED;
	snprintf(setup_why, sizeof(setup_why), "%s", why);
	longjmp(setup_ended, 1);
}

static void __printf(2, 3) wrong(struct buffer *b, const char *fmt, ...)
{
	va_list args;

	if (b->why[0])
		return;		/* the first says most */
	va_start(args, fmt);
	vsnprintf(b->why, sizeof(b->why), fmt, args);
	va_end(args);
}

static void command(const char *text)
{
	if (text && system(text))
		ksft_exit_fail_msg("failed: %s\n", text);
}

static void expired(int signal)
{
	static const char text[] = "Bail out! a request has not completed in time\n";

	(void)!write(1, text, sizeof(text) - 1);
	/* What sleeps on the device could not be ended. */
	if (opt.during)
		(void)!system(opt.during);
	if (opt.after)
		(void)!system(opt.after);
	_exit(KSFT_FAIL);
}

/* The file */

/* What is written, at @offset of the file. */
static unsigned char byte_written(size_t offset)
{
	return content[offset] | 0x80;
}

static void file_content(void)
{
	size_t i;

	for (i = 0; i < FILE_BYTES; i++)
		content[i] = byte_of_target(&file, i);
}

/* @offset of the file is at which byte of the device; 0 if not known */
static unsigned long long file_at(int fd, size_t offset, unsigned int *extents)
{
	struct {
		struct fiemap map;
		struct fiemap_extent extent[64];
	} f = { .map = { .fm_length = FILE_BYTES, .fm_flags = FIEMAP_FLAG_SYNC,
			 .fm_extent_count = 64 } };
	struct fiemap_extent *e;

	if (ioctl(fd, FS_IOC_FIEMAP, &f.map))
		ksft_exit_fail_msg("FIEMAP: %s\n", strerror(errno));
	*extents = f.map.fm_mapped_extents;
	for (e = f.extent; e < f.extent + *extents; e++)
		if (e->fe_logical <= offset && offset < e->fe_logical + e->fe_length)
			return e->fe_logical + e->fe_length < BAD_END ? 0 :
			       e->fe_physical + offset - e->fe_logical;
	return 0;
}

/* Makes the file, in pieces that are not next to each other on the device. */
static int file_make(const char *path)
{
	unsigned int extents;
	char *other, *buffer = aligned_alloc(PAGE, FILE_BYTES);
	unsigned long long at;
	size_t i;
	int fd, fd2;

	memcpy(buffer, content, FILE_BYTES);
	if (asprintf(&other, "%s.other", path) < 0)
		return KSFT_FAIL;
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT, 0666);
	fd2 = open(other, O_RDWR | O_CREAT | O_EXCL | O_DIRECT, 0666);
	for (i = 0; i < FILE_BYTES; i += EXTENT)
		if (pwrite(fd, buffer + i, EXTENT, i) != EXTENT ||
		    pwrite(fd2, buffer + i, EXTENT, i) != EXTENT)
			ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	if (fsync(fd) || fsync(fd2))
		ksft_exit_fail_msg("%s: fsync: %s\n", path, strerror(errno));
	at = file_at(fd, BAD_START, &extents);
	if (!at)
		ksft_exit_fail_msg("%s: what is to be bad is not in one piece\n", path);
	printf("%llu %lu %u\n", at / SECTOR, (BAD_END - BAD_START) / SECTOR, extents);
	return KSFT_PASS;
}

/* Reads the file once more: an error that was told is over. */
static bool file_is_right(void)
{
	unsigned char *now = aligned_alloc(PAGE, FILE_BYTES), *must = calloc(1, FILE_BYTES);
	struct request *r;
	struct buffer *b;
	bool right = true;
	size_t i;

	if (pread(file.fd, now, FILE_BYTES, 0) != (ssize_t)FILE_BYTES)
		ksft_exit_fail_msg("the file cannot be read when all is well again: %s\n",
				   strerror(errno));
	/* 1: may have been written, 2: has been */
	for (b = buffers; opt.write && b < buffers + nr_buffers; b++)
		for (r = b->req; !b->skipped && r < b->req + ARRAY_SIZE(ranges); r++)
			for (i = ranges[r - b->req].start; i < ranges[r - b->req].end; i++)
				must[i] |= r->right ? 2 : 1;
	for (i = BAD_START; opt.expected == EXPECT_DROP && i < BAD_END; i++)
		must[i] = 0;
	for (i = 0; i < FILE_BYTES; i++) {
		unsigned char written = byte_written(i);

		if (must[i] & 2 ? now[i] == written :
		    now[i] == content[i] || (must[i] && now[i] == written))
			continue;
		ksft_print_msg("byte %zu of the file is %#x; written %#x, before %#x\n", i, now[i],
			       written, content[i]);
		right = false;
		break;
	}
	memcpy(now, content, FILE_BYTES);
	if (opt.write && pwrite(file.fd, now, FILE_BYTES, 0) != (ssize_t)FILE_BYTES)
		ksft_exit_fail_msg("the file cannot be written when all is well again: %s\n",
				   strerror(errno));
	free(now);
	free(must);
	return right;
}

/* Buffers */

static bool is_bad(size_t start, size_t end)
{
	switch (opt.expected) {
	case EXPECT_BAD:
		return start < BAD_END && BAD_START < end;
	case EXPECT_ALL:
		return true;
	default:
		return false;
	}
}

/* Lays request @i out at @at, with a sector of its own before and after each segment. */
static size_t request_lay(struct buffer *b, unsigned int i, size_t at)
{
	struct request *r = &b->req[i];
	size_t len = ranges[i].end - ranges[i].start, part = len;
	unsigned int s;

	r->mem = b->mem;
	r->mem.segs = 1;
	if (b->kind->vectored && len >= MAX_SEGS * SECTOR) {
		r->mem.segs = MAX_SEGS;
		part = len / MAX_SEGS / SECTOR * SECTOR;
	}
	r->first = at;
	for (s = 0; s < r->mem.segs; s++) {
		r->mem.seg[s].iov_base = b->mem.base + at;
		r->mem.seg[s].iov_len = s + 1 < r->mem.segs ? part : len;
		at += r->mem.seg[s].iov_len + SECTOR;
		len -= part;
	}
	r->end = at - SECTOR;
	r->io = (struct io){
		.kind = b->kind, .target = &file, .fd = file.fd, .mem = &r->mem,
		.offset = ranges[i].start, .write = opt.write,
	};
	return at;
}

static void buffer_setup(struct buffer *b)
{
	unsigned int i;
	size_t at = SECTOR;

	b->dma_mem.base = b->mem.base;
	for (i = 1; i < ARRAY_SIZE(ranges); i++) {
		at = request_lay(b, i, at);
		/* The device writes between two requests. */
		if (i % 2 && b->dma_mem.segs < MAX_SEGS)
			b->dma_mem.seg[b->dma_mem.segs++] = (struct iovec){
				b->mem.base + at - SECTOR * 3 / 4, SECTOR / 2 };
	}
	request_lay(b, 0, HUGE_SIZE / 2 + SECTOR);
	for (i = 0; i < ARRAY_SIZE(ranges); i++)
		b->kind->setup(&b->req[i].io);
	b->dma = (struct io){
		.kind = io_kind_by_name("dma_segments"), .target = &device, .mem = &b->dma_mem,
	};
	if (opt.dma)
		b->dma.kind->setup(&b->dma);
}

static void buffers_setup(void)
{
	unsigned int m, k;
	struct buffer *b;

	image = malloc(HUGE_SIZE);
	buffers = calloc(ARRAY_SIZE(memory_kinds) * nr_io_kinds, sizeof(*buffers));
	for (m = 0; m < ARRAY_SIZE(memory_kinds); m++) {
		for (k = 0; k < nr_io_kinds; k++) {
			if (io_kinds[k].dma)
				continue;
			b = &buffers[nr_buffers++];
			b->kind = &io_kinds[k];
			b->mem.kind = memory_kinds[m];
			setting_up = true;
			if (!setjmp(setup_ended)) {
				memory_map(&b->mem, memory_kinds[m], false);
				buffer_setup(b);
			} else {
				b->skipped = true;
				memcpy(b->why, setup_why, sizeof(b->why));
			}
			setting_up = false;
		}
	}
}

/* Puts the first @len bytes of the request's part of a file with content @byte in the image. */
static void image_fill(const struct request *r, size_t len, unsigned char (*byte)(size_t))
{
	unsigned int s;
	size_t i, n, offset = r->io.offset;

	for (s = 0; s < r->mem.segs && len; s++) {
		unsigned char *to = image + ((char *)r->mem.seg[s].iov_base - r->mem.base);

		n = r->mem.seg[s].iov_len < len ? r->mem.seg[s].iov_len : len;
		if (!byte)
			memcpy(to, content + offset, n);
		for (i = 0; byte && i < n; i++)
			to[i] = byte(offset + i);
		offset += n;
		len -= n;
	}
}

static void image_before(const struct buffer *b)
{
	unsigned int i;

	memcpy(image, content_before(), HUGE_SIZE);
	for (i = 0; opt.write && i < ARRAY_SIZE(ranges); i++)
		image_fill(&b->req[i], FILE_BYTES, byte_written);
}

/* What is there now is as good as anything. */
static void image_any(const struct memory *m)
{
	unsigned int s;

	for (s = 0; s < m->segs; s++)
		memcpy(image + ((char *)m->seg[s].iov_base - m->base), m->seg[s].iov_base,
		       m->seg[s].iov_len);
}

static void dma_image(const struct buffer *b, bool filled)
{
	unsigned int s;
	size_t i, at;

	if (!filled)
		image_any(&b->dma_mem);
	for (s = 0; opt.dma && filled && s < b->dma_mem.segs; s++) {
		at = (char *)b->dma_mem.seg[s].iov_base - b->mem.base;
		for (i = 0; i < b->dma_mem.seg[s].iov_len; i++)
			image[at + i] = byte_of_target(&device, i);
	}
}

/* Returns the first byte that differs from the image, or -1. */
static ssize_t image_differs(const struct buffer *b)
{
	size_t i;

	if (!memcmp(image, b->mem.base, HUGE_SIZE))
		return -1;
	for (i = 0; image[i] == (unsigned char)b->mem.base[i]; i++)
		;
	return i;
}

/* The run */

/* But for what is being read, the child has the memory as it was. */
static int child_check(void)
{
	struct buffer *b;
	struct request *r;
	ssize_t at;

	for (b = buffers; b < buffers + nr_buffers; b++) {
		if (b->skipped)
			continue;
		image_before(b);
		dma_image(b, false);
		for (r = b->req; r < b->req + ARRAY_SIZE(ranges); r++)
			image_any(&r->mem);
		at = image_differs(b);
		if (at < 0)
			continue;
		printf("# %s %s: byte %zd of the child is %#x, was %#x\n", b->mem.kind->name,
		       b->kind->name, at, (unsigned char)b->mem.base[at], image[at]);
		return 1;
	}
	return 0;
}

/* A server may have a page in memory after all, and answer before the fork: ask the child. */
static unsigned char *child_remember(void)
{
	unsigned char *all = mmap(NULL, nr_buffers * HUGE_SIZE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned int i;

	for (i = 0; all != MAP_FAILED && i < nr_buffers; i++)
		if (!buffers[i].skipped)
			memcpy(all + i * HUGE_SIZE, buffers[i].mem.base, HUGE_SIZE);
	return all;
}

static int child_changed(const unsigned char *all)
{
	unsigned int i;
	ssize_t at;

	for (i = 0; i < nr_buffers; i++) {
		if (buffers[i].skipped)
			continue;
		memcpy(image, all + i * HUGE_SIZE, HUGE_SIZE);
		at = image_differs(&buffers[i]);
		if (at < 0)
			continue;
		printf("# %s %s: byte %zd of the child became %#x, was %#x\n",
		       buffers[i].mem.kind->name, buffers[i].kind->name, at,
		       (unsigned char)buffers[i].mem.base[at], image[at]);
		return 1;
	}
	return 0;
}

/* Returns when the child knows what it has, if the requests are stalled. */
static pid_t child_start(int *control)
{
	unsigned char *all = NULL;
	int go[2], ready[2];
	char c = 0;
	pid_t pid;

	fflush(stdout);
	if (pipe2(go, O_CLOEXEC) || pipe2(ready, O_CLOEXEC))
		ksft_exit_fail_msg("pipe: %s\n", strerror(errno));
	pid = fork();
	if (pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	if (!pid) {
		close(go[1]);
		if (opt.stalled) {
			all = child_remember();
			if (all == MAP_FAILED) {
				printf("# the child has no memory for a copy: %s\n", strerror(errno));
				fflush(stdout);
				_exit(1);
			}
		}
		close(ready[1]);
		(void)!read(go[0], &c, 1);
		c = child_check() || (all && child_changed(all));
		fflush(stdout);
		_exit(c);
	}
	close(go[0]);
	close(ready[1]);
	(void)!read(ready[0], &c, 1);
	close(ready[0]);
	*control = go[1];
	return pid;
}

static void touch(struct buffer *b)
{
	struct request *r;

	for (r = b->req; r < b->req + ARRAY_SIZE(ranges); r++) {
		b->mem.base[r->first - 1] = PARENT_MARK;
		b->mem.base[r->end] = PARENT_MARK;
	}
}

/* A short read has to be followed by the error. */
static void read_on(struct buffer *b, struct request *r)
{
	size_t len = ranges[r - b->req].end - r->io.offset - r->right;
	void *rest = aligned_alloc(PAGE, FILE_BYTES);
	ssize_t n = pread(file.fd, rest, len, r->io.offset + r->right);

	if (n != -1 || errno != EIO)
		wrong(b, "%zu bytes at %zu were short, and reading on gave %zd: %s", r->right,
		      (size_t)r->io.offset, n, strerror(errno));
	free(rest);
}

static void request_check(struct buffer *b, struct request *r)
{
	size_t start = ranges[r - b->req].start, end = ranges[r - b->req].end;
	bool bad = is_bad(start, end);
	long result = r->io.result;

	r->right = 0;
	runs++;
	errors += result == -EIO;
	if (b->kind->stray(&r->io))
		wrong(b, "a second completion of %zu bytes at %zu", end - start, start);
	if (result == -EIO && (bad || opt.cached || opt.expected == EXPECT_EITHER ||
			       opt.expected == EXPECT_SOME))
		return;
	if (result == (long)(end - start) && !bad) {
		r->right = result;
		return;
	}
	if (opt.cached && result > 0 && result < (long)(end - start) &&
	    (!bad || start + result <= BAD_START)) {
		r->right = result;
		short_reads++;
		if (bad)
			read_on(b, r);
		return;
	}
	wrong(b, "%zu bytes at %zu: expected %s, came %ld (%s)", end - start, start,
	      bad ? "EIO" : "all", result, result < 0 ? strerror(-result) : "no error");
}

static void buffer_check(struct buffer *b, bool touched)
{
	struct request *r;
	ssize_t at;
	size_t i;

	for (r = b->req; r < b->req + ARRAY_SIZE(ranges); r++) {
		request_check(b, r);
		b->bytes += r->right;
	}
	image_before(b);
	for (r = b->req; r < b->req + ARRAY_SIZE(ranges); r++) {
		if (touched)
			image[r->first - 1] = image[r->end] = PARENT_MARK;
		if (opt.write)
			continue;
		if (r->right != ranges[r - b->req].end - ranges[r - b->req].start)
			image_any(&r->mem);
		image_fill(r, r->right, NULL);
	}
	dma_image(b, true);
	for (r = b->req; !opt.write && r < b->req + ARRAY_SIZE(ranges); r++)
		for (i = r->first; i < r->end; i++)
			if (image[i] != (unsigned char)b->mem.base[i] &&
			    (unsigned char)b->mem.base[i] == byte_before(i)) {
				b->lost++;
				image[i] = byte_before(i);
			}
	at = image_differs(b);
	if (at >= 0)
		wrong(b, "byte %zd of the buffer is %#x, expected %#x", at,
		      (unsigned char)b->mem.base[at], image[at]);
}

static void submit_all(void)
{
	struct buffer *b;
	struct request *r;

	for (b = buffers; b < buffers + nr_buffers; b++) {
		if (b->skipped)
			continue;
		if (opt.write) {
			image_before(b);
			memcpy(b->mem.base, image, HUGE_SIZE);
		}
		if (opt.dma)
			b->dma.kind->submit(&b->dma);
		for (r = b->req; r < b->req + ARRAY_SIZE(ranges); r++)
			b->kind->submit(&r->io);
	}
}

static void wait_all(void)
{
	struct buffer *b;
	struct request *r;

	for (b = buffers; b < buffers + nr_buffers; b++) {
		if (b->skipped)
			continue;
		for (r = b->req; r < b->req + ARRAY_SIZE(ranges); r++)
			b->kind->wait(&r->io);
		if (!opt.dma)
			continue;
		b->dma.kind->wait(&b->dma);
		if (b->dma.result != (long)(b->dma_mem.segs * SECTOR / 2))
			wrong(b, "the device of the sample gave %ld", b->dma.result);
	}
}

static void check_all(bool touched)
{
	struct buffer *b;

	for (b = buffers; b < buffers + nr_buffers; b++)
		if (!b->skipped)
			buffer_check(b, touched);
}

static void report(const struct buffer *b)
{
	const char *mem = b->mem.kind->name, *io = b->kind->name;

	if (b->why[0])
		ksft_print_msg("%s %s: %s\n", mem, io, b->why);
	else if (b->lost)
		ksft_print_msg("%s %s: lost %zu of %zu bytes\n", mem, io, b->lost, b->bytes);
	if (b->skipped) {
		ksft_test_result_skip("%s %s\n", mem, io);
	} else if (b->why[0]) {
		ksft_test_result_fail("%s %s\n", mem, io);
	} else if (!opt.control || opt.write || b->kind->pins) {
		ksft_test_result(!b->lost, "%s %s\n", mem, io);
	} else if (b->lost) {
		ksft_test_result_pass("%s %s\n", mem, io);
	} else {
		ksft_print_msg("%s %s: this kernel keeps the data by itself\n", mem, io);
		ksft_test_result_skip("%s %s\n", mem, io);
	}
}

static void run(void)
{
	bool right = true;
	size_t lost = 0;
	unsigned int i;
	int status, control;
	pid_t child;

	buffers_setup();
	ksft_set_plan(nr_buffers + 2 + (opt.expected == EXPECT_SOME));
	signal(SIGALRM, expired);
	alarm(opt.limit_s);

	command(opt.before);
	submit_all();
	/* The threads come to where they sleep. */
	usleep(20000);
	child = child_start(&control);
	for (i = 0; i < nr_buffers; i++)
		if (!buffers[i].skipped)
			touch(&buffers[i]);
	command(opt.during);
	wait_all();
	check_all(true);
	close(control);
	if (waitpid(child, &status, 0) != child)
		ksft_exit_fail_msg("waitpid: %s\n", strerror(errno));
	if (opt.again) {
		opt.expected = EXPECT_ALL;
		submit_all();
		wait_all();
		/* What the first left behind is known; now only the results count. */
		for (i = 0; i < nr_buffers * ARRAY_SIZE(ranges); i++)
			if (!buffers[i / ARRAY_SIZE(ranges)].skipped)
				request_check(&buffers[i / ARRAY_SIZE(ranges)],
					      &buffers[i / ARRAY_SIZE(ranges)].req[i % ARRAY_SIZE(ranges)]);
	} else {
		command(opt.after);
		right = file_is_right();
	}
	alarm(0);
	for (i = 0; i < nr_buffers; i++) {
		lost += buffers[i].lost;
		report(&buffers[i]);
	}
	/* Without a pin the child sees what the device writes. */
	ksft_test_result(!status || opt.control, "the child has the memory as it was\n");
	ksft_test_result(right, "the file is right\n");
	if (opt.expected == EXPECT_SOME)
		ksft_test_result(errors && errors < runs, "some requests fail, not all\n");
	ksft_print_msg("fault: %s %s: runs=%u errno=EIO:%u short=%u lost=%zu\n", opt.name,
		       opt.write ? "write" : "read", runs, errors, short_reads, lost);
}

static void __noreturn usage(void)
{
	printf("Usage: io_error [options] FILE\n"
	       "  -m        make FILE, and print where what is to be bad lies: sector, sectors, extents\n"
	       "  -w        write, else read\n"
	       "  -e WHAT   fails: none, bad (touches what is bad; default), all, either,\n"
	       "            some (either, and both happen); drop: a write to what is bad is lost\n"
	       "  -s        a server reads for us into its cache: reads may be short, with the error\n"
	       "            for the next, and fail for what shares a folio with what is bad\n"
	       "  -C        unprotected: what can be lost by the fork must be lost\n"
	       "  -n NAME   in the report\n"
	       "  -b CMD    before the requests\n"
	       "  -d CMD    while all are in flight, which nothing ends before\n"
	       "  -a CMD    when they are done, to make all well again\n"
	       "  -A        nothing is well again: all fail when sent once more\n"
	       "  -D DEVICE a pin_guard_dma that writes between the requests\n");
	exit(KSFT_FAIL);
}

int main(int argc, char **argv)
{
	bool make = false;
	int o;

	while ((o = getopt(argc, argv, "mwe:sCn:b:d:a:AD:")) != -1) {
		switch (o) {
		case 'm':
			make = true;
			break;
		case 'w':
			opt.write = true;
			break;
		case 'e':
			for (opt.expected = 0; strcmp(expected_names[opt.expected], optarg);)
				if (++opt.expected == ARRAY_SIZE(expected_names))
					usage();
			break;
		case 's':
			opt.cached = true;
			break;
		case 'C':
			opt.control = true;
			break;
		case 'n':
			opt.name = optarg;
			break;
		case 'b':
			opt.before = optarg;
			break;
		case 'd':
			opt.during = optarg;
			opt.stalled = true;
			break;
		case 'a':
			opt.after = optarg;
			break;
		case 'A':
			opt.again = true;
			break;
		case 'D':
			opt.dma = optarg;
			break;
		default:
			usage();
		}
	}
	if (optind + 1 != argc)
		usage();
	file.path = argv[optind];
	file_content();
	if (make)
		return file_make(file.path);

	ksft_print_header();
	on_finish = setup_ends;
	file.fd = open(file.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (file.fd < 0)
		ksft_exit_fail_msg("%s: %s\n", file.path, strerror(errno));
	device.path = opt.dma;
	device.latency_ms = DMA_MS;
	run();
	ksft_finished();
}

// SPDX-License-Identifier: GPL-2.0
/* The cases: what happens, step by step, around a read in flight. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "forkscrew.h"
#include "uffd.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define ATTEMPTS	5	/* to have the read in flight until the last step is done */
#define CONTROLS	3	/* to see a loss */
#define MAX_CHILDREN	2

#define PARENT_MARK	0xc7	/* neither a byte_before() nor a byte_of_target() */
#define CHILD_MARK	0xd9

/*
 * Where the read is lost without protection, and why. A page that a process has to itself is marked so
 * (PageAnonExclusive), and is written where it is. Fork clears the mark, and the next write copies the
 * page if anything but the page table refers to it. The read in flight does: the parent goes on with
 * the copy, and the data comes to the old page.
 */
const struct fork_case fork_cases[] = {
	/* The cases that each kind of I/O runs. */

	/* No fork: the page stays marked. */
	{ "none", &mem_anon, KEEPS, true, { READ, TOUCH } },
	/* The parent's write copies the page, which the child has, too. */
	{ "fork", &mem_anon, LOSES, true, { READ, FORK, TOUCH } },
	/* The end of the child does not bring the mark back, and the read refers to the page. */
	{ "forkexit", &mem_anon, LOSES, true, { READ, FORK, CHILD_EXIT, TOUCH } },
	/* Fork clears the mark of the swap entry: the write swaps the page in, and copies it. */
	{ "pageout_fork", &mem_anon, LOSES, true, { READ, PAGEOUT, FORK, TOUCH } },
	/* The write splits the mapping of the huge page, and copies the page that it is for. */
	{ "thp_fork", &mem_thp, LOSES, true, { READ, FORK, TOUCH } },
	/* The write copies the whole huge page. */
	{ "huge_fork", &mem_hugetlb, LOSES, true, { READ, FORK, TOUCH } },
	/* The lookup of the read has made anonymous pages of the file's, which fork shares. */
	{ "filepriv_fork", &mem_file, LOSES, true, { READ, FORK, TOUCH } },

	/* The order of fork, exit and write. */

	/* The lookup of the read is a write: it has copied the page and marked the copy. */
	{ "fork_before", &mem_anon, KEEPS, false, { FORK, READ, TOUCH } },
	/* Nobody writes: both processes have the page that the data comes to. */
	{ "fork_notouch", &mem_anon, KEEPS, false, { READ, FORK } },
	/* It is the child that gets a copy. */
	{ "fork_childtouch", &mem_anon, KEEPS, false, { READ, FORK, CHILD_TOUCH } },
	/* The parent alone has the page again, but the mark is gone. */
	{ "fork_childtouch_exit", &mem_anon, LOSES, false,
	  { READ, FORK, CHILD_TOUCH, CHILD_EXIT, TOUCH } },
	/* As with one child. */
	{ "fork_twice", &mem_anon, LOSES, false, { READ, FORK, FORK, TOUCH } },
	/* The child borrows the memory of the parent: no page table is copied. */
	{ "vfork", &mem_anon, KEEPS, false, { READ, VFORK, TOUCH } },
	/* posix_spawn() is a vfork(). */
	{ "spawn", &mem_anon, KEEPS, false, { READ, SPAWN, TOUCH } },
	/* system() is a posix_spawn(). */
	{ "system", &mem_anon, KEEPS, false, { READ, SYSTEM, TOUCH } },

	/* Page tables that changed under the read. */

	/* The swap entry has the mark, and the reference keeps the page in the swap cache. */
	{ "pageout", &mem_anon, KEEPS, false, { READ, PAGEOUT, TOUCH } },
	/* The lookup of the read swaps the page in, and marks it. */
	{ "pageout_before", &mem_anon, KEEPS, false, { PAGEOUT, READ, TOUCH } },
	/* The child is gone, and so is the mark of the swap entry. */
	{ "pageout_forkexit", &mem_anon, LOSES, false,
	  { READ, PAGEOUT, FORK, CHILD_EXIT, TOUCH } },
	/* The parent swaps the page in without the mark, and then copies it. */
	{ "pageout_fork_readfirst", &mem_anon, LOSES, false,
	  { READ, PAGEOUT, FORK, LOAD, TOUCH } },
	/* The page goes to swap without the mark, and comes back without. */
	{ "fork_pageout", &mem_anon, LOSES, false, { READ, FORK, PAGEOUT, TOUCH } },
	/* The protection is in the page table: the page is the same, and marked. */
	{ "uffdwp", &mem_anon, KEEPS, false, { READ, UFFD_WP, UFFD_UNWP, TOUCH } },
	/* Fork clears the mark of a protected page, too. */
	{ "uffdwp_fork", &mem_anon, LOSES, false, { READ, UFFD_WP, FORK, UFFD_UNWP, TOUCH } },
	/* As uffdwp: only the page table changes. */
	{ "rwp", &mem_anon, KEEPS, false, { READ, UFFD_RWP, UFFD_UNRWP, TOUCH } },
	/* Fork clears the mark of a page that nobody may touch, too. */
	{ "rwp_fork", &mem_anon, LOSES, false, { READ, UFFD_RWP, FORK, UFFD_UNRWP, TOUCH } },
	/* The mark does not come back with the child's end, nor with the access. */
	{ "rwp_forkexit", &mem_anon, LOSES, false,
	  { READ, UFFD_RWP, FORK, CHILD_EXIT, UFFD_UNRWP, TOUCH } },
	/* The swap entry that fork shares is one of a protected page. */
	{ "rwp_pageout_fork", &mem_anon, LOSES, false,
	  { READ, UFFD_RWP, PAGEOUT, FORK, UFFD_UNRWP, TOUCH } },
	/* The page itself moves, with its mark. */
	{ "uffdmove", &mem_anon, KEEPS, false, { READ, UFFD_MOVE_PAGES, TOUCH } },
	/* Fork finds the page at its new address. */
	{ "uffdmove_fork", &mem_anon, LOSES, false, { READ, UFFD_MOVE_PAGES, FORK, TOUCH } },
	/* What moves is a swap entry, which fork shares. */
	{ "uffdmove_pageout_fork", &mem_anon, LOSES, false,
	  { READ, PAGEOUT, UFFD_MOVE_PAGES, FORK, TOUCH } },
	/* Only the page table changes. */
	{ "mprotect", &mem_anon, KEEPS, false, { READ, PROTECT_READ, UNPROTECT, TOUCH } },
	/* Only the page table changes. */
	{ "mprotnone", &mem_anon, KEEPS, false, { READ, PROTECT_NONE, UNPROTECT, TOUCH } },
	/* Fork clears the mark of pages that cannot be written to, and then they can. */
	{ "mprotect_fork", &mem_anon, LOSES, false,
	  { READ, PROTECT_READ, FORK, UNPROTECT, TOUCH } },
	/* The same for pages that cannot be read either. */
	{ "mprotnone_fork", &mem_anon, LOSES, false,
	  { READ, PROTECT_NONE, FORK, UNPROTECT, TOUCH } },
	/* The rights of a thread are nothing to fork. */
	{ "pkey_fork", &mem_anon, LOSES, false,
	  { PKEY, READ, PKEY_DENY, FORK, PKEY_ALLOW, TOUCH } },
	/* Fork leaves the memory out, and the mark where it is. */
	{ "dontfork", &mem_anon, KEEPS, false, { DONTFORK, READ, FORK, TOUCH } },
	/* The page itself moves, with its mark. */
	{ "mremap", &mem_anon, KEEPS, false, { READ, MREMAP, TOUCH } },
	/* Fork finds the page at its new address. */
	{ "mremap_fork", &mem_anon, LOSES, false, { READ, MREMAP, FORK, TOUCH } },
	/* The pages themselves move, with their marks. */
	{ "mremap_apart", &mem_anon4, KEEPS, false, { READ, MREMAP_APART, MREMAP_BACK, TOUCH } },
	/* Fork finds each page where it is. */
	{ "mremap_apart_fork", &mem_anon4, LOSES, false,
	  { READ, MREMAP_APART, FORK, MREMAP_BACK, TOUCH } },
	/* The pages are where they were, and fork shares them as ever. */
	{ "mremap_back_fork", &mem_anon4, LOSES, false,
	  { READ, MREMAP_APART, MREMAP_BACK, FORK, TOUCH } },
	/* The pages around the hole are shared. */
	{ "hole_fork", &mem_anon4, LOSES, false, { READ, UNMAP_HOLE, FORK, TOUCH } },
	/* A page with one reference too many is not moved. */
	{ "compact", &mem_anon, KEEPS, false, { READ, COMPACT, TOUCH } },
	/* A page with one reference too many is not collapsed. */
	{ "collapse", &mem_small, KEEPS, false, { READ, COLLAPSE, TOUCH } },

	/* Other memory. */

	/* As forkexit. */
	{ "thp_forkexit", &mem_thp, LOSES, false, { READ, FORK, CHILD_EXIT, TOUCH } },
	/* As rwp_fork, with the protection in the entry of a huge page. */
	{ "thp_rwp_fork", &mem_thp, LOSES, false, { READ, UFFD_RWP, FORK, UFFD_UNRWP, TOUCH } },
	/* As rwp_fork, in page tables of hugetlb. */
	{ "huge_rwp_fork", &mem_hugetlb, LOSES, false,
	  { READ, UFFD_RWP, FORK, UFFD_UNRWP, TOUCH } },
	/* As rwp_fork, with anonymous pages among those of a file. */
	{ "filepriv_rwp_fork", &mem_file, LOSES, false,
	  { READ, UFFD_RWP, FORK, UFFD_UNRWP, TOUCH } },
	/* As uffdmove_fork: the entry of a huge page moves. */
	{ "thp_uffdmove_fork", &mem_thp, LOSES, false, { READ, UFFD_MOVE_PAGES, FORK, TOUCH } },
	/* As mremap_fork: the entry of a huge page moves. */
	{ "thp_mremap_fork", &mem_thp, LOSES, false, { READ, MREMAP, FORK, TOUCH } },
	/* The read is of one page, but the mark that is cleared is for all. */
	{ "thp_small_fork", &mem_thp_small, LOSES, false, { READ, FORK, TOUCH } },
	/* hugetlb asks who maps the page, not who refers to it: the write needs no copy. */
	{ "huge_forkexit", &mem_hugetlb, KEEPS, false, { READ, FORK, CHILD_EXIT, TOUCH } },
	/* The write copies all of the huge page, and one page of it is the read's. */
	{ "huge_small_fork", &mem_hugetlb_small, LOSES, false, { READ, FORK, TOUCH } },
	/* Shared pages are not copied on write. */
	{ "shm_fork", &mem_shm, KEEPS, false, { READ, FORK, TOUCH } },

	/* Other ways to the page than a store. */

	/* process_vm_readv() pins what it reads, and for this the kernel copies unmarked pages. */
	{ "pvmread", &mem_anon, LOSES, false, { READ, FORK, CHILD_EXIT, PVM_READ } },
	/* The page is marked, and pinned where it is. */
	{ "pvmread_nofork", &mem_anon, KEEPS, false, { READ, PVM_READ } },
	/* The pipe has a reference, but the page is marked: the write goes to it. */
	{ "vmsplice", &mem_anon, KEEPS, false, { READ, VMSPLICE, TOUCH } },
	/* A write through /proc copies as a store does. */
	{ "procmem", &mem_anon, LOSES, false, { READ, FORK, PROC_MEM } },
	/* The lookup of the read has made a page of the parent's own, which fork shares. */
	{ "ksm_before", &mem_anon, LOSES, false, { KSM_MERGE, READ, FORK, TOUCH } },
};

const unsigned int nr_fork_cases = ARRAY_SIZE(fork_cases);

struct child {
	pid_t pid;
	int sock;	/* one byte asks, the child answers */
};

/* What a child sees that it should not. */
struct sight {
	size_t wrong, offset;
	unsigned char expected, came;
};

struct run {
	const struct fork_case *c;
	struct io io;
	struct memory mem;
	struct child child[MAX_CHILDREN];
	unsigned int children;
	unsigned char *data;	/* by map_read() */
	unsigned char *extent;
	size_t bytes, past_eof;
	unsigned char mark;	/* what this process wrote to the rest of the pages, or 0 */
	bool inherited;		/* a child has the memory */
	bool in_flight;
	double submitted_ms;
	bool protected;		/* by mprotect() or userfaultfd, since it was submitted */
	bool unreadable;	/* whoever touches it waits for us */
	char *apart;		/* where MREMAP_APART has put the first page */
	int uffd;
	int pkey;		/* or 0 */
	int pipe[2];
};

/* What the target gives for each byte of the area, NOT_READ where the read leaves it alone. */
#define NOT_READ	0xff
#define PAST_EOF	0xfe	/* and whatever comes there */

enum extent { READ_NOWHERE, READ_PARTLY, READ_WHOLLY };

static void map_read(struct run *r)
{
	const struct memory *m = &r->mem;
	size_t target_offset = 0, i;
	unsigned int seg;

	if (r->data)
		return;
	r->data = malloc(m->size);
	r->extent = calloc(m->size / PAGE, 1);
	memset(r->data, NOT_READ, m->size);
	for (seg = 0; seg < m->segs; seg++) {
		unsigned char *to = r->data + ((char *)m->seg[seg].iov_base - m->base);

		for (i = 0; i < m->seg[seg].iov_len; i++, target_offset++)
			to[i] = target_offset < r->io.target->size ?
				byte_of_target(r->io.target, target_offset) : PAST_EOF;
	}
	for (i = 0; i < m->size; i += PAGE) {
		void *some = memchr(r->data + i, NOT_READ, PAGE);

		if (!some)
			r->extent[i / PAGE] = READ_WHOLLY;
		else if (some != r->data + i || r->data[i + PAGE / 2] != NOT_READ)
			r->extent[i / PAGE] = READ_PARTLY;
	}
	r->bytes = target_offset < r->io.target->size ? target_offset : r->io.target->size;
	r->past_eof = target_offset - r->bytes;
}

static bool in_hole(const struct memory *m, size_t offset)
{
	return m->hole_start <= offset && offset < m->hole_end;
}

/*
 * Writes to every page that the read goes to: @mark to all that the read leaves
 * alone, or, where it fills the whole page, a store that changes nothing.
 */
static void touch(struct run *r, unsigned char mark, int mem_fd)
{
	struct memory *m = &r->mem;
	unsigned char zero = 0;
	size_t page, i;

	/* Or the compiler sees that the store changes nothing. */
	__asm__ volatile("" : "+r" (zero));

	for (page = 0; page < m->size; page += PAGE) {
		if (in_hole(m, page) || r->extent[page / PAGE] == READ_NOWHERE)
			continue;
		if (r->extent[page / PAGE] == READ_WHOLLY) {
			__atomic_fetch_add(&m->base[page], zero, __ATOMIC_RELAXED);
			continue;
		}
		for (i = page; i < page + PAGE; i++) {
			if (r->data[i] != NOT_READ)
				continue;
			if (mem_fd < 0)
				m->base[i] = mark;
			else if (pwrite(mem_fd, &mark, 1, (unsigned long)&m->base[i]) != 1)
				give_up("/proc/self/mem: %s", strerror(errno));
		}
	}
	r->mark = mark;
}

/* What this process should see at @offset. */
static unsigned char expected_byte(const struct run *r, size_t offset, bool read_seen)
{
	if (r->data[offset] != NOT_READ)
		return read_seen ? r->data[offset] : content_before()[offset];
	return r->mark && r->extent[offset >> PAGE_SHIFT] ? r->mark : content_before()[offset];
}

/* Of most pages; where it says no, only a look at each byte tells. */
static bool page_is_right(const struct run *r, size_t page, bool read_seen)
{
	const unsigned char *expected = content_before();

	if (r->extent[page / PAGE] == READ_PARTLY)
		return false;
	if (r->extent[page / PAGE] == READ_WHOLLY && read_seen)
		expected = r->data;
	return !memcmp(r->mem.base + page, expected + page, PAGE);
}

static void look_closer(const struct run *r, size_t page, bool read_seen, struct sight *read,
			struct sight *rest)
{
	size_t i;

	for (i = page; i < page + PAGE; i++) {
		unsigned char expected, came;
		struct sight *s;

		if (r->data[i] == PAST_EOF && read_seen)
			continue;
		expected = expected_byte(r, i, read_seen);
		came = r->mem.base[i];
		if (came == expected)
			continue;
		s = r->data[i] != NOT_READ ? read : rest;
		if (!s->wrong++) {
			s->offset = i;
			s->expected = expected;
			s->came = came;
		}
	}
}

/* Compares the area; counts apart what the read should have filled and the rest. */
static void look(const struct run *r, bool read_seen, struct sight *read, struct sight *rest)
{
	size_t page;

	memset(read, 0, sizeof(*read));
	memset(rest, 0, sizeof(*rest));
	for (page = 0; page < r->mem.size; page += PAGE)
		if (!in_hole(&r->mem, page) && !page_is_right(r, page, read_seen))
			look_closer(r, page, read_seen, read, rest);
}

static const char *origin(unsigned char b)
{
	return b == PARENT_MARK ? "the parent's write" : b == CHILD_MARK ? "the child's write" :
	       b & 0x80 ? "the content before the read" : "data of the read";
}

static void describe(char *text, size_t size, const char *who, const struct sight *s)
{
	snprintf(text, size,
		 "%s: expected 0x%02x (%s), came 0x%02x (%s) at byte %zu of page %zu, %zu bytes so",
		 who, s->expected, origin(s->expected), s->came, origin(s->came),
		 s->offset % PAGE, s->offset / PAGE, s->wrong);
}

/* Moves */

static void *reserve(void *at, size_t size)
{
	void *map = mmap(at, size, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	if (map == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	return map;
}

static void move_pages(char *from, size_t len, char *to, size_t new_len)
{
	if (mremap(from, len, new_len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		give_up("mremap of %zu bytes to %zu: %s", len, new_len, strerror(errno));
}

/* All to where the others are. */
static void mremap_back(struct run *r)
{
	if (!r->apart)
		return;
	move_pages(r->apart, PAGE, r->mem.base, PAGE);
	munmap(r->apart + PAGE, r->mem.size - PAGE);
	r->apart = NULL;
}

/* The child: does what a byte on its socket says. */

static void __noreturn child_main(struct run *r, int sock)
{
	struct sight read, rest;
	char ask;

	/* PKEY_DENY is inherited. */
	if (r->pkey)
		pkey_set(r->pkey, 0);
	while (recv(sock, &ask, 1, 0) == 1) {
		switch (ask) {
		case 'T':
			touch(r, CHILD_MARK, -1);
			break;
		case 'L':
			mremap_back(r);
			/* PROTECT_NONE is inherited. */
			mprotect(r->mem.base, r->mem.size, PROT_READ | PROT_WRITE);
			look(r, r->c->mem->shared, &read, &rest);
			if (r->c->mem->shared)
				rest.wrong = 0;
			send(sock, read.wrong ? &read : &rest, sizeof(read), 0);
			continue;
		default:
			_exit(0);
		}
		send(sock, &ask, 1, 0);
	}
	_exit(0);
}

static void child_ask(const struct child *c, char what, void *answer, size_t size)
{
	if (send(c->sock, &what, 1, 0) != 1 || recv(c->sock, answer, size, 0) != (ssize_t)size)
		give_up("the child is gone");
}

static void child_end(struct child *c)
{
	if (!c->pid)
		return;
	close(c->sock);
	waitpid(c->pid, NULL, 0);
	c->pid = 0;
}

static void step_fork(struct run *r)
{
	struct child *c = &r->child[r->children++];
	int sock[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sock))
		give_up("socketpair: %s", strerror(errno));
	c->pid = fork();
	if (c->pid < 0) {
		if (errno == ENOMEM && r->c->mem->map == mem_hugetlb.map)
			skip("fork: no free huge page for the child");
		give_up("fork: %s", strerror(errno));
	}
	if (!c->pid) {
		/* Else a child before us would not see its end of the line. */
		while (c-- > r->child)
			close(c->sock);
		close(sock[0]);
		child_main(r, sock[1]);
	}
	close(sock[1]);
	c->sock = sock[0];
}

/* Other steps */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		skip("%s: %s", path, strerror(errno));
	close(fd);
}

static long read_number(const char *path)
{
	FILE *f = fopen(path, "r");
	long n = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static bool have_swap(void)
{
	FILE *f = fopen("/proc/swaps", "r");
	char line[256];
	int lines = 0;

	while (f && fgets(line, sizeof(line), f))
		lines++;
	if (f)
		fclose(f);
	return lines > 1;
}

static void step_pageout(struct run *r)
{
	if (!have_swap())
		skip("no swap to page out to");
	if (madvise(r->mem.base, r->mem.size, MADV_PAGEOUT))
		skip("MADV_PAGEOUT: %s", strerror(errno));
	if (!r->in_flight && !memory_is_swapped(&r->mem))
		skip("MADV_PAGEOUT did not page out");
}

#define KSM	"/sys/kernel/mm/ksm/"

static void step_ksm(struct run *r)
{
	static const struct timespec nap = { .tv_nsec = 20000000 };
	size_t size = r->mem.size;
	long run = read_number(KSM "run"), naps, merged = 0;
	long sleep = read_number(KSM "sleep_millisecs");
	char *twin, old[24];

	if (run < 0)
		skip("no KSM in this kernel");
	twin = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (twin == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	memcpy(twin, r->mem.base, size);
	if (madvise(twin, size, MADV_MERGEABLE) ||
	    madvise(r->mem.base, size, MADV_MERGEABLE))
		skip("MADV_MERGEABLE: %s", strerror(errno));
	write_file(KSM "sleep_millisecs", "10");
	write_file(KSM "run", "1");
	for (naps = 0; naps < 300 && merged < (long)(2 * size / PAGE); naps++) {
		nanosleep(&nap, NULL);
		merged = read_number("/proc/self/ksm_merging_pages");
	}
	snprintf(old, sizeof(old), "%ld", run);
	write_file(KSM "run", old);
	snprintf(old, sizeof(old), "%ld", sleep);
	write_file(KSM "sleep_millisecs", old);
	if (merged < (long)(2 * size / PAGE))
		skip("KSM has merged only %ld pages", merged);
}

static void step_uffd_wp(struct run *r, bool protect)
{
	char *start = r->mem.base;
	size_t len = r->mem.size;

	if (protect) {
		r->uffd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
		if (r->uffd < 0 || uffd_register(r->uffd, start, len, UFFDIO_REGISTER_MODE_WP))
			skip("userfaultfd write protection: %s", strerror(errno));
	}
	if (uffd_write_protect(r->uffd, start, len, protect))
		give_up("UFFDIO_WRITEPROTECT: %s", strerror(errno));
	r->protected |= protect;
}

static void step_uffd_rwp(struct run *r, bool protect)
{
	char *start = r->mem.base;
	size_t len = r->mem.size;

	if (protect) {
		r->uffd = uffd_open(UFFD_FEATURE_RWP);
		if (r->uffd < 0 || uffd_register(r->uffd, start, len, UFFDIO_REGISTER_MODE_RWP))
			skip("userfaultfd read-write protection: %s", strerror(errno));
	}
	if (uffd_rw_protect(r->uffd, start, len, protect))
		give_up("UFFDIO_RWPROTECT: %s", strerror(errno));
	r->unreadable = protect;
	r->protected |= protect;
}

/* The kernel refuses to move what is pinned: that stays, and must be right where it is. */
static void step_uffd_move(struct run *r)
{
	struct memory *m = &r->mem;
	size_t size = m->size, room = size + HUGE_SIZE, moved;
	char *map = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *to = (char *)(((unsigned long)map + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));

	if (map == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	r->uffd = uffd_open(UFFD_FEATURE_MOVE);
	if (r->uffd < 0 || uffd_register(r->uffd, to, size, UFFDIO_REGISTER_MODE_MISSING))
		skip("UFFDIO_MOVE: %s", strerror(errno));
	if (!uffd_move(r->uffd, to, m->base, size, &moved)) {
		memory_unmap(m);
		memory_move(m, to);
		m->mapping = map;
		m->mapping_size = room;
	} else if (errno == EBUSY && !moved) {
		munmap(map, room);
	} else {
		give_up("UFFDIO_MOVE: %s, %zu of %zu bytes moved", strerror(errno), moved, size);
	}
	close(r->uffd);
	r->uffd = -1;
}

static void step_protect(struct run *r, int prot)
{
	r->protected = true;
	if (mprotect(r->mem.base, r->mem.size, prot))
		give_up("mprotect: %s", strerror(errno));
}

static void step_pkey(struct run *r)
{
	if (!r->pkey)
		r->pkey = pkey_alloc(0, 0);
	if (r->pkey < 0)
		skip("no protection keys here: pkey_alloc: %s", strerror(errno));
	if (pkey_mprotect(r->mem.base, r->mem.size, PROT_READ | PROT_WRITE, r->pkey))
		give_up("pkey_mprotect: %s", strerror(errno));
}

static void step_pkey_set(struct run *r, unsigned int rights)
{
	if (pkey_set(r->pkey, rights))
		give_up("pkey_set: %s", strerror(errno));
}

static void step_mremap(struct run *r)
{
	size_t size = r->mem.size;
	char *to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (to == MAP_FAILED ||
	    mremap(r->mem.base, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		give_up("mremap: %s", strerror(errno));
	/* What is around a huge page stays behind. */
	memory_unmap(&r->mem);
	memory_move(&r->mem, to);
}

/* The first page leaves the others, grows on the way, and moves on. */
static void step_mremap_apart(struct run *r)
{
	size_t size = r->mem.size;
	char *home = r->mem.base, *rest = reserve(NULL, size), *first = reserve(NULL, size);

	move_pages(home, size, rest, size);
	reserve(home, size);
	move_pages(rest, PAGE, first, size);
	reserve(rest, PAGE);
	r->apart = reserve(NULL, size);
	move_pages(first, size, r->apart, size);
	memory_move(&r->mem, rest);
}

static void step_unmap_hole(struct run *r)
{
	struct memory *m = &r->mem;

	m->hole_start = PAGE;
	m->hole_end = 2 * PAGE;
	if (munmap(m->base + m->hole_start, PAGE))
		give_up("munmap: %s", strerror(errno));
}

static void step_pvm_read(struct run *r)
{
	char *copy = malloc(r->mem.size);
	struct iovec local = { .iov_base = copy, .iov_len = r->mem.size };

	if (process_vm_readv(getpid(), &local, 1, r->mem.seg, r->mem.segs, 0) < 0)
		skip("process_vm_readv: %s", strerror(errno));
	free(copy);
}

static void step_proc_mem(struct run *r)
{
	int fd = open("/proc/self/mem", O_RDWR);

	if (fd < 0)
		skip("/proc/self/mem: %s", strerror(errno));
	touch(r, PARENT_MARK, fd);
	close(fd);
}

static void step_load(struct run *r)
{
	size_t i;

	for (i = 0; i < r->mem.size; i += PAGE)
		(void)__atomic_load_n(&r->mem.base[i], __ATOMIC_RELAXED);
}

static void step_vfork(void)
{
	pid_t pid = vfork();

	if (!pid)
		_exit(0);
	if (pid < 0)
		give_up("vfork: %s", strerror(errno));
	waitpid(pid, NULL, 0);
}

static void step_spawn(void)
{
	char name[] = "true", *argv[] = { name, NULL };
	pid_t pid;
	int err = posix_spawnp(&pid, name, NULL, NULL, argv, argv + 1);

	if (err)
		skip("posix_spawn: %s", strerror(err));
	waitpid(pid, NULL, 0);
}

static void step_vmsplice(struct run *r)
{
	if (pipe(r->pipe) || vmsplice(r->pipe[1], r->mem.seg, r->mem.segs, 0) < 0)
		give_up("vmsplice: %s", strerror(errno));
}

static void step(struct run *r, enum step s)
{
	char done;

	switch (s) {
	case STEP_END:
		break;
	case READ:
		r->submitted_ms = now_ms();
		r->io.kind->submit(&r->io);
		r->in_flight = true;
		nap_ms(r->io.target->delay_ms);
		break;
	case FORK:
		step_fork(r);
		break;
	case CHILD_TOUCH:
		child_ask(&r->child[0], 'T', &done, 1);
		break;
	case CHILD_EXIT:
		child_end(&r->child[0]);
		break;
	case VFORK:
		step_vfork();
		break;
	case SPAWN:
		step_spawn();
		break;
	case SYSTEM:
		if (system("true"))
			skip("system(\"true\") failed");
		break;
	case TOUCH:
		touch(r, PARENT_MARK, -1);
		break;
	case LOAD:
		step_load(r);
		break;
	case PVM_READ:
		step_pvm_read(r);
		break;
	case PROC_MEM:
		step_proc_mem(r);
		break;
	case PAGEOUT:
		step_pageout(r);
		break;
	case KSM_MERGE:
		step_ksm(r);
		break;
	case UFFD_WP:
	case UFFD_UNWP:
		step_uffd_wp(r, s == UFFD_WP);
		break;
	case UFFD_RWP:
	case UFFD_UNRWP:
		step_uffd_rwp(r, s == UFFD_RWP);
		break;
	case UFFD_MOVE_PAGES:
		step_uffd_move(r);
		break;
	case PROTECT_READ:
		step_protect(r, PROT_READ);
		break;
	case PROTECT_NONE:
		step_protect(r, PROT_NONE);
		break;
	case UNPROTECT:
		step_protect(r, PROT_READ | PROT_WRITE);
		break;
	case PKEY:
		step_pkey(r);
		break;
	case PKEY_DENY:
		step_pkey_set(r, PKEY_DISABLE_ACCESS);
		break;
	case PKEY_ALLOW:
		step_pkey_set(r, 0);
		break;
	case DONTFORK:
		if (madvise(r->mem.base, r->mem.size, MADV_DONTFORK))
			give_up("MADV_DONTFORK: %s", strerror(errno));
		r->inherited = false;
		break;
	case MREMAP:
		step_mremap(r);
		break;
	case MREMAP_APART:
		step_mremap_apart(r);
		break;
	case MREMAP_BACK:
		mremap_back(r);
		break;
	case UNMAP_HOLE:
		step_unmap_hole(r);
		break;
	case COMPACT:
		write_file("/proc/sys/vm/compact_memory", "1");
		break;
	case COLLAPSE:
		/* -EAGAIN: a page has a reference more than it should. */
		if (!madvise(r->mem.base, r->mem.size, MADV_COLLAPSE))
			break;
		if (errno != EAGAIN)
			skip("MADV_COLLAPSE: %s", strerror(errno));
		break;
	case VMSPLICE:
		step_vmsplice(r);
		break;
	}
}

/* May the child have got some of the data by the fork? A long read comes in pieces. */
static bool fork_was_late(struct run *r)
{
	size_t i;

	/* To look at small pages could swap them in, and they may be moved or unmapped. */
	if (r->mem.flat < FILE_BYTES || r->unreadable)
		return now_ms() - r->submitted_ms > r->io.target->latency_ms;
	for (i = 0; i < r->mem.segs; i++) {
		char *start = r->mem.seg[i].iov_base;
		size_t at = start - r->mem.base, len = r->mem.seg[i].iov_len, j;

		for (j = 0; j < len; j += 512)
			if ((unsigned char)start[j] != content_before()[at + j])
				return true;
	}
	return false;
}

/* One try. Returns false if the read was over too early to say anything. */
static bool attempt(struct run *r, bool control, struct verdict *v)
{
	struct sight read, rest, seen;
	bool in_time = true;
	unsigned int i;

	memset(v, 0, sizeof(*v));
	r->children = 0;
	r->mark = 0;
	r->inherited = true;
	r->in_flight = false;
	r->protected = r->unreadable = false;
	r->apart = NULL;
	r->uffd = r->pipe[0] = r->pipe[1] = -1;
	memory_map(&r->mem, r->c->mem, r->io.kind->vectored);
	map_read(r);
	v->bytes = r->bytes;

	for (i = 0; i < MAX_STEPS && r->c->steps[i] != STEP_END; i++) {
		step(r, r->c->steps[i]);
		if (r->c->steps[i] == FORK && r->in_flight && fork_was_late(r))
			in_time = false;
	}
	if (r->io.kind->done(&r->io))
		in_time = false;
	r->io.kind->wait(&r->io);

	/* On a busy machine a hole can be there before the read has looked up all of its pages, and so can a
	 * protection: it ends there then, as it does without the module.
	 */
	if (r->mem.hole_end &&
	    r->mem.base + r->mem.hole_start == (char *)r->mem.seg[0].iov_base + r->io.result)
		in_time = false;
	else if (r->protected &&
		 (r->io.result == -EFAULT ||
		  (r->io.result > 0 && r->io.result < (long)v->bytes)))
		in_time = false;
	else if (r->io.result != (long)v->bytes &&
		 /* Ceph may count what is past the end of the file, too. */
		 !(r->io.result > (long)v->bytes && r->io.result <= (long)(v->bytes + r->past_eof)))
		give_up("the read: expected %zu bytes, came %ld", v->bytes, r->io.result);
	if (in_time) {
		look(r, true, &read, &rest);
		v->lost = read.wrong;
		v->outcome = CASE_PASSED;
		if (read.wrong) {
			v->outcome = CASE_LOST;
			describe(v->why, sizeof(v->why), "parent", &read);
		}
		if (rest.wrong) {
			v->outcome = CASE_FAILED;
			describe(v->why, sizeof(v->why), "parent, beside the read", &rest);
		}
	}
	for (i = 0; i < r->children; i++) {
		if (r->child[i].pid && r->inherited && !control && in_time) {
			child_ask(&r->child[i], 'L', &seen, sizeof(seen));
			if (seen.wrong && v->outcome == CASE_PASSED) {
				v->outcome = CASE_FAILED;
				describe(v->why, sizeof(v->why), "child", &seen);
			}
		}
		child_end(&r->child[i]);
	}
	if (r->uffd >= 0)
		close(r->uffd);
	if (r->pipe[0] >= 0) {
		close(r->pipe[0]);
		close(r->pipe[1]);
	}
	memory_unmap(&r->mem);
	return in_time;
}

void fork_case_run(const struct fork_case *c, const struct io_kind *io,
		   const struct target *target, bool control)
{
	struct run r = {
		.c = c,
		.io = { .kind = io, .target = target, .fd = target->fd, .mem = &r.mem },
	};
	bool loss_awaited = control && c->fate != KEEPS && !io->pins;
	unsigned int early = 0, kept = 0;
	struct verdict v;

	io->setup(&r.io);
	for (;;) {
		if (!attempt(&r, control, &v)) {
			if (++early == ATTEMPTS)
				skip("the read was over before the last step, %u times: needs a longer delay",
				     early);
			continue;
		}
		if (v.outcome == CASE_PASSED && loss_awaited && ++kept < CONTROLS)
			continue;
		verdict->lost = v.lost;
		verdict->bytes = v.bytes;
		finish(v.outcome, "%s", v.why);
	}
}

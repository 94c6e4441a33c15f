// SPDX-License-Identifier: GPL-2.0
/* The kinds of memory that a read goes to. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "case.h"
#include "memory_kinds.h"

#define MARGIN		512UL	/* keeps block devices content, and leaves a rest of the page */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

unsigned char byte_before(size_t offset)
{
	return 0x80 | (((offset >> PAGE_SHIFT) * 13 + offset) & 0x3f);
}

static void map_mmap(struct memory *m, int flags, int fd)
{
	m->mapping_size = m->size;
	m->mapping = mmap(NULL, m->mapping_size, PROT_READ | PROT_WRITE, flags, fd, 0);
	m->base = m->mapping;
}

static void map_anon(struct memory *m)
{
	map_mmap(m, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* One small folio per page: a large one would hide which page was copied. */
	if (m->mapping != MAP_FAILED)
		madvise(m->mapping, m->mapping_size, MADV_NOHUGEPAGE);
}

static void map_shm(struct memory *m)
{
	map_mmap(m, MAP_SHARED | MAP_ANONYMOUS, -1);
}

static void map_hugetlb(struct memory *m)
{
	map_mmap(m, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGE, -1);
	if (m->mapping == MAP_FAILED)
		skip("no free huge page: see /proc/sys/vm/nr_hugepages");
}

static void map_file(struct memory *m)
{
	int fd = memfd_create("forkscrew", 0);

	if (fd < 0 || write(fd, content_before(), m->size) != (ssize_t)m->size)
		skip("memfd: %s", strerror(errno));
	map_mmap(m, MAP_PRIVATE, fd);
	close(fd);
}

static size_t thp_bytes(const void *addr)
{
	unsigned long start, end;
	size_t kb = 0;
	bool inside = false;
	char line[256];
	FILE *f = fopen("/proc/self/smaps", "r");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (unsigned long)addr && (unsigned long)addr < end;
		else if (inside && sscanf(line, "AnonHugePages: %zu", &kb) == 1)
			break;
	}
	fclose(f);
	return kb << 10;
}

static void map_huge_aligned(struct memory *m, int advice)
{
	m->mapping_size = 2 * HUGE_SIZE;
	m->mapping = mmap(NULL, m->mapping_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->mapping == MAP_FAILED)
		return;
	m->base = (char *)(((unsigned long)m->mapping + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	if (madvise(m->base, HUGE_SIZE, advice))
		skip("no transparent huge pages in this kernel");
	memset(m->base, 1, HUGE_SIZE);
}

static void map_thp(struct memory *m)
{
	map_huge_aligned(m, MADV_HUGEPAGE);
	if (m->mapping == MAP_FAILED)
		return;
	if (thp_bytes(m->base) != HUGE_SIZE)
		madvise(m->base, HUGE_SIZE, MADV_COLLAPSE);
	if (thp_bytes(m->base) != HUGE_SIZE)
		skip("no transparent huge page to be had");
}

/* As many small pages as could be a huge one. */
static void map_small(struct memory *m)
{
	map_huge_aligned(m, MADV_NOHUGEPAGE);
	if (m->mapping != MAP_FAILED)
		madvise(m->base, HUGE_SIZE, MADV_HUGEPAGE);
}

#define SMALL(_name, _pages, _map)	.name = _name, .pages = _pages, .map = _map
#define HUGE(_name, _read_pages, _map)	.name = _name, .read_pages = _read_pages, .map = _map

const struct memory_kind mem_anon = { SMALL("anon", 2, map_anon) };
const struct memory_kind mem_anon4 = { SMALL("anon4", 4, map_anon) };
const struct memory_kind mem_file = { SMALL("file", 2, map_file) };
const struct memory_kind mem_shm = { SMALL("shm", 2, map_shm), .shared = true };
const struct memory_kind mem_thp = { HUGE("thp", 0, map_thp) };
const struct memory_kind mem_thp_small = { HUGE("thp_small", 1, map_thp) };
const struct memory_kind mem_small = { HUGE("small", 2, map_small) };
const struct memory_kind mem_hugetlb = { HUGE("hugetlb", 0, map_hugetlb) };
const struct memory_kind mem_hugetlb_small = { HUGE("hugetlb_small", 1, map_hugetlb) };

const unsigned char *content_before(void)
{
	static unsigned char *content;
	unsigned char first[PAGE + 0x40];
	size_t i;

	if (content)
		return content;
	content = malloc(HUGE_SIZE);
	for (i = 0; i < sizeof(first); i++)
		first[i] = byte_before(0) + (i & 0x3f);
	/* Each page is the first one, from another byte on. */
	for (i = 0; i < HUGE_SIZE; i += PAGE)
		memcpy(content + i, first + byte_before(i) - byte_before(0), PAGE);
	return content;
}

void memory_map(struct memory *m, const struct memory_kind *kind, bool vectored)
{
	size_t i, stride = kind->pages ? PAGE : FILE_BYTES / MAX_SEGS;

	memset(m, 0, sizeof(*m));
	m->kind = kind;
	m->size = kind->pages ? kind->pages * PAGE : HUGE_SIZE;
	m->flat = kind->pages ? m->size : kind->read_pages ? kind->read_pages * PAGE : FILE_BYTES;
	kind->map(m);
	if (m->mapping == MAP_FAILED)
		give_up("mmap of %zu bytes %s: %s", m->size, kind->name, strerror(errno));
	/* A page of a file has it already, and is left where it is. */
	if (m->size <= HUGE_SIZE && memcmp(m->base, content_before(), m->size))
		memcpy(m->base, content_before(), m->size);
	else if (m->size > HUGE_SIZE)
		for (i = 0; i < m->size; i++)
			m->base[i] = byte_before(i);

	m->segs = vectored ? MAX_SEGS : 1;
	if (vectored && stride * MAX_SEGS > m->size)
		m->segs = m->size / stride;
	for (i = 0; i < m->segs; i++) {
		m->seg[i].iov_base = m->base + i * stride + MARGIN;
		m->seg[i].iov_len = (vectored ? stride : m->flat) - 2 * MARGIN;
	}
}

void memory_unmap(struct memory *m)
{
	munmap(m->mapping, m->mapping_size);
}

/* The same pages at another address. */
void memory_move(struct memory *m, char *to)
{
	unsigned int i;

	for (i = 0; i < m->segs; i++)
		m->seg[i].iov_base = to + ((char *)m->seg[i].iov_base - m->base);
	m->base = to;
	m->mapping = to;
	m->mapping_size = m->size;
}

bool memory_is_swapped(const struct memory *m)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd >= 0) {
		if (pread(fd, &entry, 8, (unsigned long)m->base / PAGE * 8) != 8)
			entry = 0;
		close(fd);
	}
	return entry >> 62 & 1;
}

/* SPDX-License-Identifier: GPL-2.0 */
/* userfaultfd: what it does to pages, one call each. All return 0, or -1 and errno. */
#ifndef _UFFD_H
#define _UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/userfaultfd.h>

#ifndef UFFDIO_MOVE
#define UFFDIO_MOVE			_IOWR(UFFDIO, 0x05, struct uffdio_move)
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#endif

#ifndef UFFDIO_RWPROTECT
#define UFFD_FEATURE_RWP		(1 << 17)
#define UFFD_FEATURE_RWP_ASYNC		(1 << 18)
#define UFFDIO_REGISTER_MODE_RWP	((__u64)1 << 3)
#define UFFDIO_RWPROTECT_MODE_RWP	((__u64)1 << 0)
#define UFFDIO_RWPROTECT		_IOWR(UFFDIO, 0x09, struct uffdio_rwprotect)
struct uffdio_rwprotect {
	struct uffdio_range range;
	__u64 mode;
};
#endif

/* For faults of user mode, which needs no privilege. Returns the descriptor. */
int uffd_open(__u64 features);
int uffd_register(int uffd, void *start, size_t len, __u64 mode);
/* This also ends the protection of the pages. */
int uffd_unregister(int uffd, void *start, size_t len);
int uffd_write_protect(int uffd, void *start, size_t len, bool on);
int uffd_rw_protect(int uffd, void *start, size_t len, bool on);
/* Moves all of it, or a part: *@moved says how much. */
int uffd_move(int uffd, void *to, void *from, size_t len, size_t *moved);

#endif /* _UFFD_H */

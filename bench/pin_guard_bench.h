/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Interface of /dev/pin_guard_bench, which times pins and windows in the kernel. */
#ifndef _PIN_GUARD_BENCH_H
#define _PIN_GUARD_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum pin_guard_bench_op {
	PIN_GUARD_BENCH_C_DEST,		/* pin_user_pages_fast(FOLL_WRITE), unpin_user_pages() */
	PIN_GUARD_BENCH_GUARD_DEST,	/* PinGuard<Dest> */
	PIN_GUARD_BENCH_C_SOURCE,	/* as C_DEST, without FOLL_WRITE */
	PIN_GUARD_BENCH_GUARD_SOURCE,	/* PinGuard<Source> */
	PIN_GUARD_BENCH_WINDOW,		/* Window::open() and drop */
};

#define PIN_GUARD_BENCH_MAX_LEN	(512 << 12)

struct pin_guard_bench {
	__u64 addr;
	__u64 len;
	__u32 op;
	__u32 loops;
	__u64 ns;		/* out: of all loops */
};

/* Windows of one page, that stay open until the file is closed or others are asked for. */
struct pin_guard_bench_hold {
	__u64 addr;		/* of the first; the next is a page further on */
	__u64 count;		/* or 0 */
};

#define PIN_GUARD_BENCH		_IOWR('P', 0xd8, struct pin_guard_bench)
#define PIN_GUARD_BENCH_HOLD	_IOW('P', 0xd9, struct pin_guard_bench_hold)

#endif /* _PIN_GUARD_BENCH_H */

/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Interface of /dev/pin_guard_bench, which times pins in the kernel. */
#ifndef _PIN_GUARD_BENCH_H
#define _PIN_GUARD_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum pin_guard_bench_op {
	PIN_GUARD_BENCH_C_DEST,		/* pin_user_pages_fast(FOLL_WRITE), unpin_user_pages() */
	PIN_GUARD_BENCH_GUARD_DEST,	/* PinGuard<Dest> */
	PIN_GUARD_BENCH_C_SOURCE,	/* as C_DEST, without FOLL_WRITE */
	PIN_GUARD_BENCH_GUARD_SOURCE,	/* PinGuard<Source> */
};

#define PIN_GUARD_BENCH_MAX_LEN	(512 << 12)

struct pin_guard_bench {
	__u64 addr;
	__u64 len;
	__u32 op;
	__u32 loops;
	__u64 ns;		/* out: of all loops */
};

#define PIN_GUARD_BENCH	_IOWR('P', 0xd8, struct pin_guard_bench)

#endif /* _PIN_GUARD_BENCH_H */

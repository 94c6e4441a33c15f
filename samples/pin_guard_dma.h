/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Interface of /dev/pin_guard_dma, a DMA engine in software (samples/). */
#ifndef _PIN_GUARD_DMA_H
#define _PIN_GUARD_DMA_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* How the engine holds the pages while the request is in flight. */
enum pin_guard_dma_mode {
	PIN_GUARD_DMA_GET,		/* a plain FOLL_GET reference: fork loses the data */
	PIN_GUARD_DMA_WINDOW,		/* FOLL_GET inside a window */
	PIN_GUARD_DMA_PIN,		/* PinGuard */
	PIN_GUARD_DMA_PIN_LONGTERM,	/* PinGuard, charged to RLIMIT_MEMLOCK */
};

enum pin_guard_dma_op {
	PIN_GUARD_DMA_FILL,	/* byte i becomes byte i % 8 of the pattern, little endian */
	PIN_GUARD_DMA_SUM,	/* the sum of the bytes; only the PIN modes */
};

#define PIN_GUARD_DMA_MAX_LEN	(64ULL << 20)

/* Of FILL: the pattern of each eight bytes is one more than that of the eight before them. */
#define PIN_GUARD_DMA_COUNT	(1U << 0)

/* As delay_ms: in flight until WAIT asks for it, or the file is closed. */
#define PIN_GUARD_DMA_HELD	0xffffffffU

struct pin_guard_dma_submit {
	__u64 addr;
	__u64 len;
	__u64 pattern;
	__u32 delay_ms;
	__u32 mode;
	__u32 op;
	__u32 flags;		/* PIN_GUARD_DMA_COUNT */
	__u64 id;		/* out */
};

struct pin_guard_dma_wait {
	__u64 id;
	__s64 result;		/* bytes, or -errno */
	__u64 sum;
	__u32 pages;
	__u32 runs;		/* folio-contiguous runs of pages */
};

#define PIN_GUARD_DMA_SUBMIT	_IOWR('P', 0xd0, struct pin_guard_dma_submit)
#define PIN_GUARD_DMA_WAIT	_IOWR('P', 0xd1, struct pin_guard_dma_wait)

#endif /* _PIN_GUARD_DMA_H */

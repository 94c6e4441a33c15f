/* SPDX-License-Identifier: GPL-2.0 */
/* Requests of /dev/pin_guard_dma. */
#ifndef _REQUEST_H
#define _REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "pin_guard_dma.h"

#define DMA_DEVICE	"/dev/pin_guard_dma"
#define PATTERN		0x8877665544332211ULL

/* Without the device the whole test is a skip: kselftest_harness takes skips alone for a pass. */
void need_device(void);

/* Private anonymous memory, or NULL. */
char *map_pages(size_t size, int flags);

/* Returns 0 and the id, or an errno. */
int submit(int fd, void *addr, size_t len, unsigned int mode, unsigned int op,
	   unsigned int delay_ms, uint64_t *id);

int wait_for(int fd, uint64_t id, struct pin_guard_dma_wait *w);

#endif /* _REQUEST_H */

// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "kselftest.h"
#include "request.h"

void need_device(void)
{
	if (!access(DMA_DEVICE, R_OK | W_OK))
		return;
	ksft_print_header();
	ksft_exit_skip("%s: %s\n", DMA_DEVICE, strerror(errno));
}

char *map_pages(size_t size, int flags)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags,
		       -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int submit(int fd, void *addr, size_t len, unsigned int mode, unsigned int op,
	   unsigned int delay_ms, uint64_t *id)
{
	struct pin_guard_dma_submit s = {
		.addr = (unsigned long)addr, .len = len, .pattern = PATTERN,
		.mode = mode, .op = op, .delay_ms = delay_ms,
	};

	*id = 0;
	if (ioctl(fd, PIN_GUARD_DMA_SUBMIT, &s))
		return errno;
	*id = s.id;
	return 0;
}

int wait_for(int fd, uint64_t id, struct pin_guard_dma_wait *w)
{
	memset(w, 0, sizeof(*w));
	w->id = id;
	while (ioctl(fd, PIN_GUARD_DMA_WAIT, w))
		if (errno != EINTR)
			return errno;
	return 0;
}

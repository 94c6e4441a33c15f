// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uffd.h"

int uffd_open(__u64 features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	int err;

	if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api)) {
		err = errno;
		close(uffd);
		errno = err;
		return -1;
	}
	return uffd;
}

static struct uffdio_range range(void *start, size_t len)
{
	return (struct uffdio_range){ .start = (unsigned long)start, .len = len };
}

int uffd_register(int uffd, void *start, size_t len, __u64 mode)
{
	struct uffdio_register reg = { .range = range(start, len), .mode = mode };

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

int uffd_unregister(int uffd, void *start, size_t len)
{
	struct uffdio_range r = range(start, len);

	return ioctl(uffd, UFFDIO_UNREGISTER, &r);
}

int uffd_write_protect(int uffd, void *start, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = range(start, len), .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
}

int uffd_rw_protect(int uffd, void *start, size_t len, bool on)
{
	struct uffdio_rwprotect rwp = {
		.range = range(start, len), .mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0,
	};

	return ioctl(uffd, UFFDIO_RWPROTECT, &rwp);
}

int uffd_move(int uffd, void *to, void *from, size_t len, size_t *moved)
{
	struct uffdio_move move;
	int ret;

	for (*moved = 0; *moved < len; ) {
		move = (struct uffdio_move){
			.dst = (unsigned long)to + *moved, .src = (unsigned long)from + *moved,
			.len = len - *moved,
		};
		ret = ioctl(uffd, UFFDIO_MOVE, &move);
		if (move.move > 0)
			*moved += move.move;
		if (ret && errno != EAGAIN)
			return -1;
	}
	return 0;
}

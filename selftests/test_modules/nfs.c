// SPDX-License-Identifier: GPL-2.0
/*
 * The names by which pin_guard knows an nfs.ko whose direct reads pin their pages, and nothing else
 * of it. It can be loaded where the kernel's own is not.
 */

#include <linux/fs.h>
#include <linux/module.h>

static noinline __used ssize_t nfs_file_read(struct kiocb *iocb, struct iov_iter *to)
{
	return -EOPNOTSUPP;
}

static noinline __used void nfs_release_request_list(struct list_head *head)
{
}

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The names of an NFS that pins its pages");

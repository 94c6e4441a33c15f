// SPDX-License-Identifier: GPL-2.0
/* A livepatch of nfs_file_read(): a function has only one that redirects it. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/livepatch.h>
#include <linux/module.h>

/* Nobody reads while it is in. */
static ssize_t livepatch_nfs_file_read(struct kiocb *iocb, struct iov_iter *to)
{
	return -EOPNOTSUPP;
}

static struct klp_func funcs[] = {
	{
		.old_name = "nfs_file_read",
		.new_func = livepatch_nfs_file_read,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "nfs",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int test_klp_nfs_init(void)
{
	return klp_enable_patch(&patch);
}

static void test_klp_nfs_exit(void)
{
}

module_init(test_klp_nfs_init);
module_exit(test_klp_nfs_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION("Livepatch test: nfs_file_read");

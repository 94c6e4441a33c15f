// SPDX-License-Identifier: GPL-2.0
/*
 * A direct caller, as a BPF program is one, of the function that a parameter names. It shares the
 * function with one that redirects it, but says EAGAIN first, as BPF does while it updates its
 * trampoline.
 *
 * With a module of the function it waits for that, and is there before others that wait.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/ftrace.h>
#include <linux/linkage.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/string.h>

static char *function;
module_param(function, charp, 0400);
MODULE_PARM_DESC(function, "the function");

static char *module;
module_param(module, charp, 0400);
MODULE_PARM_DESC(module, "its module, which is to come");

static int busy;
module_param(busy, int, 0400);
MODULE_PARM_DESC(busy, "how often to say EAGAIN");

static atomic_t busy_left;

asmlinkage void test_direct_trampoline(void);

/* Goes on in the function. On arm64 that returns to x9, and is entered at x30. */
#ifdef CONFIG_X86
#include <asm/ibt.h>
#endif
asm(
"	.pushsection	.text, \"ax\", @progbits\n"
"	.type		test_direct_trampoline, @function\n"
"	.globl		test_direct_trampoline\n"
"test_direct_trampoline:\n"
#ifdef CONFIG_X86
	ASM_ENDBR
	ASM_RET
#else
"	hint		#34\n"	/* BTI C */
"	mov		x10, x30\n"
"	mov		x30, x9\n"
"	ret		x10\n"
#endif
"	.size		test_direct_trampoline, .-test_direct_trampoline\n"
"	.popsection\n"
);

static int share(struct ftrace_ops *op, unsigned long ip, enum ftrace_ops_cmd cmd)
{
	if (cmd != FTRACE_OPS_CMD_ENABLE_SHARE_IPMODIFY_PEER)
		return 0;
	return atomic_dec_if_positive(&busy_left) >= 0 ? -EAGAIN : 0;
}

static struct ftrace_ops ops = {
	.ops_func = share,
};

static bool attached;

static int attach(void)
{
	int ret;

	atomic_set(&busy_left, busy);
	ret = ftrace_set_filter(&ops, function, strlen(function), 1);
	if (!ret)
		ret = register_ftrace_direct(&ops, (unsigned long)test_direct_trampoline);
	if (ret)
		ftrace_free_filter(&ops);
	attached = !ret;
	return ret;
}

static void detach(void)
{
	if (attached)
		unregister_ftrace_direct(&ops, (unsigned long)test_direct_trampoline, true);
	attached = false;
}

static int notify(struct notifier_block *block, unsigned long state, void *data)
{
	struct module *mod = data;

	if (strcmp(mod->name, module))
		return NOTIFY_DONE;
	if (state == MODULE_STATE_COMING)
		return notifier_from_errno(attach());
	if (state == MODULE_STATE_GOING)
		detach();
	return NOTIFY_DONE;
}

static struct notifier_block notifier = {
	.notifier_call = notify,
	.priority = INT_MAX,
};

static int __init test_direct_init(void)
{
	if (!function)
		return -EINVAL;
	return module ? register_module_notifier(&notifier) : attach();
}

static void __exit test_direct_exit(void)
{
	if (module)
		unregister_module_notifier(&notifier);
	detach();
}

module_init(test_direct_init);
module_exit(test_direct_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Direct caller of a function, which is busy at first");

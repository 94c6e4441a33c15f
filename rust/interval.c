// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's interval tree, made anew: not every kernel has CONFIG_INTERVAL_TREE, which nobody can
 * choose. Not traced: an ftrace callback looks things up in it.
 */

#include <linux/interval_tree_generic.h>

#include "helpers.h"

#define START(node) ((node)->start)
#define LAST(node)  ((node)->last)

INTERVAL_TREE_DEFINE(struct interval_tree_node, rb, unsigned long, __subtree_last, START, LAST,
		     notrace, pin_guard_interval)

// SPDX-License-Identifier: GPL-2.0
/*
 * An interval tree like that of lib/interval_tree.c, which a kernel has only with
 * CONFIG_INTERVAL_TREE; the user cannot select that option. notrace, because an ftrace callback
 * searches the tree.
 */

#include <linux/interval_tree_generic.h>

#include "helpers.h"

#define START(node) ((node)->start)
#define LAST(node)  ((node)->last)

INTERVAL_TREE_DEFINE(struct interval_tree_node, rb, unsigned long, __subtree_last, START, LAST,
		     notrace, pin_guard_interval)

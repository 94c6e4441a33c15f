/* SPDX-License-Identifier: GPL-2.0 */
/* What the kernel counts. */
#ifndef _COUNTERS_H
#define _COUNTERS_H

/* What follows @key in a file of lines "key number" or "key: number", or -1; "": a file of one. */
long number_in(const char *path, const char *key);

/* One of debugfs pin_guard/counters. */
long counter(const char *name);

/* The pins that the machine holds. */
long pins_held(void);

/* How many more than @before after a while. */
long pins_left(long before);

#endif /* _COUNTERS_H */

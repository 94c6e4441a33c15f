// SPDX-License-Identifier: GPL-2.0
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counters.h"

#define SETTLE_TRIES	200
#define SETTLE_US	50000

long number_in(const char *path, const char *key)
{
	char line[160];
	long value = -1;
	FILE *f = fopen(path, "r");
	size_t len = strlen(key);

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && (!len || strchr(": ", line[len])))
			value = strtol(line + len + !!len, NULL, 10);
	if (f)
		fclose(f);
	return value;
}

long counter(const char *name)
{
	return number_in("/sys/kernel/debug/pin_guard/counters", name);
}

long pins_held(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);

	/* Counters are per CPU until they are gathered. */
	if (fd >= 0) {
		(void)!write(fd, "1", 1);
		close(fd);
	}
	return number_in("/proc/vmstat", "nr_foll_pin_acquired") -
	       number_in("/proc/vmstat", "nr_foll_pin_released");
}

long pins_left(long before)
{
	int tries;

	for (tries = 0; tries < SETTLE_TRIES && pins_held() > before; tries++)
		usleep(SETTLE_US);
	return pins_held() - before;
}

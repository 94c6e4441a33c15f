// SPDX-License-Identifier: GPL-2.0
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wanted.h"

bool case_wanted(const char *fmt, ...)
{
	const char *line = getenv("PIN_GUARD_CASES");
	char name[200], pattern[200];
	va_list args;
	size_t len;

	if (!line || !*line)
		return true;
	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	for (; *line; line += len + (line[len] == '\n')) {
		len = strcspn(line, "\n");
		snprintf(pattern, sizeof(pattern), "%.*s", (int)len, line);
		if (!fnmatch(pattern, name, 0))
			return true;
	}
	return false;
}

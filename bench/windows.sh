#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What windows cost a fork, and a window whoever opens it: windows.sh SAMPLES PROGRAM, for run.sh.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

load pin_guard pin_guard_bench

# MAPPINGS: what a small program has, and 500 more
for mappings in 13 513; do
	for windows in 0 1 100 1000 10000; do
		measure windows "$mappings" "$windows" mapped 9
	done
	measure windows "$mappings" 1000 unmapped 9
done
echo "forks: $SECONDS s" >&2
for processes in 1 200; do
	measure open "$processes" "$processes" 9
	measure open 100000 "$processes" 9
done
echo "windows: $SECONDS s" >&2
pg_unload pin_guard_bench pin_guard

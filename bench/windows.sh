#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What windows cost a fork, and a window whoever opens it: windows.sh SAMPLES PROGRAM, for run.sh.

HERE=$(dirname "$(readlink -f "$0")")
: "${KSFT:=${KDIR:+$KDIR/tools/testing/selftests}}"
export KSFT
# shellcheck source-path=SCRIPTDIR source=../selftests/lib.sh
. "$HERE/../selftests/lib.sh"

SAMPLES=$1
BENCH=$2

fail()
{
	echo "pin_guard: bench: $*" >&2
	exit 1
}

measure()
{
	"$BENCH" "$@" >>"$SAMPLES" || fail "$*"
}

trap pg_cleanup EXIT
pg_unload pin_guard_dma pin_guard_tx pin_guard_bench pin_guard || fail "pin_guard is in use"
for module in pin_guard pin_guard_bench; do
	pg_load $module || fail "$module does not load"
done

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

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a pin guard costs, and what pins cost a fork: pin.sh SAMPLES PROGRAM, for run.sh.

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
for module in pin_guard pin_guard_dma pin_guard_bench; do
	pg_load $module || fail "$module does not load"
done

measure pin 9
measure inflight 4k 15
measure inflight thp 15
echo "pins: $SECONDS s" >&2
pg_unload pin_guard_bench pin_guard_dma pin_guard

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the scripts that run.sh starts, each with SAMPLES PROGRAM...: the selftests' lib.sh,
# our modules, a measurement.

HERE=$(dirname "$(readlink -f "$0")")
: "${KSFT:=${KDIR:+$KDIR/tools/testing/selftests}}"
export KSFT
# shellcheck source-path=SCRIPTDIR source=../selftests/lib.sh
. "$HERE/../selftests/lib.sh"

SAMPLES=$1
PROGRAM=$2

trap pg_cleanup EXIT

fail()
{
	echo "pin_guard: bench: $*" >&2
	exit 1
}

# load MODULE... - unloads all of our modules, then loads these
load()
{
	local module

	pg_unload pin_guard_tx pin_guard_dma pin_guard_bench pin_guard || fail "pin_guard is in use"
	for module; do
		pg_load "$module" || fail "$module does not load"
	done
}

# measure ARGUMENT... - the program's: adds its samples to SAMPLES
measure()
{
	"$PROGRAM" "$@" >>"$SAMPLES" || fail "$*"
}

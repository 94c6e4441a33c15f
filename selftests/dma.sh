#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# All kinds of memory without a network, on /dev/pin_guard_dma: a plain reference loses the
# data, a window and a pin keep it; what windows do when their pages are moved, and what a fork
# pins; and what PinGuard answers.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

JOBS=${PIN_GUARD_JOBS:-6}
TESTS=("forkscrew control" "forkscrew window" "forkscrew pin" windows guard)

pg_start "pin_guard and pin_guard_dma load" "${TESTS[@]}" "pin_guard_dma and pin_guard unload"
for m in pin_guard pin_guard_dma; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
pg_unload_all
pg_memory 24
health_begin

if pg_load pin_guard && pg_load pin_guard_dma && pg_wait 5 test -c /dev/pin_guard_dma; then
	pg_result "pin_guard and pin_guard_dma load" "$KSFT_PASS"
	pg_run "forkscrew control" "$PG_HERE/forkscrew" -j "$JOBS" --mode get /dev/pin_guard_dma
	pg_run "forkscrew window" "$PG_HERE/forkscrew" -j "$JOBS" --mode window /dev/pin_guard_dma
	pg_run "forkscrew pin" "$PG_HERE/forkscrew" -j "$JOBS" --mode pin /dev/pin_guard_dma
	pg_run windows "$PG_HERE/windows"
	pg_run guard "$PG_HERE/guard"
else
	for t in "pin_guard and pin_guard_dma load" "${TESTS[@]}"; do
		pg_result "$t" "$KSFT_FAIL"
	done
fi
pg_check "pin_guard_dma and pin_guard unload" pg_unload pin_guard_dma pin_guard

health_end
pg_finish

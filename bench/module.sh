#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the module costs a fork and a read: module.sh SAMPLES PROGRAM, for run.sh.
#
# PIN_GUARD_ROUNDS     rounds at least [12]; more are run until the noise is low
# PIN_GUARD_SECONDS    but none is begun after that time [720]
# shellcheck disable=SC2153 # PG_RUN is lib.sh's

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../selftests/nfs_server.sh
. "$HERE/../selftests/nfs_server.sh"

pg_isolate "$@"

ROUNDS=${PIN_GUARD_ROUNDS:-12}
SECONDS_MAX=${PIN_GUARD_SECONDS:-720}

idle=
trap '[ -z "$idle" ] || kill "$idle"; pg_cleanup' EXIT
mkdir -p "$PG_RUN"
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
load	# none of them

# Nothing may collapse or scan pages meanwhile, and no server may send its log to a disk.
pg_set /sys/kernel/mm/transparent_hugepage/enabled madvise
pg_set /sys/kernel/mm/transparent_hugepage/defrag madvise
pg_set /sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan 1
pg_set /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs 100000000
pg_set /sys/kernel/mm/ksm/run 0
pg_set /proc/sys/kernel/numa_balancing 0

why=$(pg_nfs_server) || fail "no NFS server: $why"
pg_nfs_mount 4.2 "$PG_RUN/mnt" || fail "cannot mount NFS"
head -c 1M /dev/zero >"$PG_RUN/export/file"

# series SERIES: what there is to compare, once, in fresh processes
series()
{
	local kind ready

	# What a load leaves behind in the allocators is the same for all.
	pg_load pin_guard || fail "pin_guard does not load"
	[ "$1" = test ] || pg_unload pin_guard || fail "pin_guard does not unload"
	# And what is free there, as far as a small fork takes it.
	exec {ready}< <(exec "$PROGRAM" idle 400)
	idle=$!
	read -r -u "$ready" || fail "no idle processes"
	sleep 3
	"$PROGRAM" warm fork 1 4k 20 >/dev/null || fail "warm-up"
	for kind in 4k thp; do
		# The state that the allocator is in lasts for a process: take several.
		for _ in {1..10}; do
			measure "$1" fork 1 $kind 4
			measure "$1" fork 10 $kind 3
		done
		measure "$1" fork 100 $kind 5
		measure "$1" fork 100 $kind 5
		measure "$1" fork 1000 $kind 2
		measure "$1" fork 1000 $kind 2
		[ $kind = 4k ] || measure "$1" fork 1000 $kind 2
	done
	for _ in {1..10}; do
		measure "$1" read "$PG_RUN/mnt/file" 4096 20
	done
	measure "$1" read "$PG_RUN/mnt/file" 65536 80
	measure "$1" read "$PG_RUN/mnt/file" 1048576 30
	kill "$idle"
	idle=
	exec {ready}<&-
	if [ "$1" = test ]; then
		pg_unload pin_guard || fail "pin_guard does not unload"
	fi
}

orders=("base test again" "test again base" "again base test")
round=0
while :; do
	for s in ${orders[round++ % 3]}; do
		series "$s"
	done
	echo "round $round: $SECONDS s" >&2
	((round >= ROUNDS)) || continue
	"$HERE/report" "$SAMPLES" quiet && break
	((SECONDS < SECONDS_MAX)) || break
done

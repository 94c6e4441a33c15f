#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Reads with O_DIRECT over NFS, while the process forks: without pin_guard.ko they are lost,
# with it they are not. Mounts its own server on lo, or takes mount points as arguments
# (KSELFTEST_NFS_SH_ARGS="/mnt/a /mnt/b").

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

DELAY=${PIN_GUARD_DELAY:-150ms}	# each way
JOBS=${PIN_GUARD_JOBS:-6}
STRESS_S=${PIN_GUARD_STRESS:-4}

pg_isolate "$@"

MOUNTS=("$@")
VERSIONS=("$@")	# or the names of the mounts
LOOPBACK=
if [ $# -eq 0 ]; then
	VERSIONS=(v4.2 v3)
	LOOPBACK=1
fi
MODULE=()
pg_have pin_guard && MODULE=(protected)

# Each mount: the file system's own way, and then with the module.
pg_start $((${#VERSIONS[@]} * 12 + 2))
pg_unload pin_guard_dma pin_guard || pg_skip_all "pin_guard is loaded and busy"

if [ -n "$LOOPBACK" ]; then
	pg_nfs_server >"$PG_TMP/why" || pg_skip_all "no NFS server: $(cat "$PG_TMP/why")"
	for v in "${VERSIONS[@]}"; do
		pg_nfs_mount "${v#v}" "$PG_RUN/mnt/$v" || pg_skip_all "cannot mount NFS $v"
		MOUNTS+=("$PG_RUN/mnt/$v")
	done
fi
pg_memory 24
health_begin

# round NAME DIRECTORY OPTION... - six tests
round()
{
	local name=$1 dir=$2 m seconds=$STRESS_S

	shift 2
	# A control ends with its first loss.
	[ "${1:-}" != --control ] || seconds=$((STRESS_S * 8))
	[ -z "$LOOPBACK" ] || pg_netem "$DELAY"
	pg_run "$name forkscrew" "$PG_HERE/forkscrew" -j "$JOBS" "$@" "$dir"
	[ -z "$LOOPBACK" ] || pg_netem_off
	for m in anon thp hugetlb; do
		pg_run "$name dma_thread $m" "$PG_HERE/dma_thread" -t "$seconds" -m "$m" "$@" "$dir"
	done
	pg_run "$name pthread_read_and_fork" \
		"$PG_HERE/pthread_read_and_fork" -t "$seconds" "$@" "$dir"
}

for i in "${!MOUNTS[@]}"; do
	round "${VERSIONS[i]} control" "${MOUNTS[i]}" --control
done

for i in "${!MOUNTS[@]}"; do
	v=${VERSIONS[i]}
	if [ ${#MODULE[@]} = 0 ]; then
		for t in load forkscrew "dma_thread anon" "dma_thread thp" "dma_thread hugetlb" \
			 pthread_read_and_fork unload; do
			pg_skip "$v protected $t" "no pin_guard.ko: set PIN_GUARD_MODULES"
		done
		continue
	fi
	pg_check "$v pin_guard loads" pg_load pin_guard
	round "$v protected" "${MOUNTS[i]}"
	pg_check "$v pin_guard unloads" pg_unload pin_guard
done

health_end
pg_finish

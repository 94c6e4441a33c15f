#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the test scripts, after lib.sh and net.sh: reads with O_DIRECT on mounts while the
# process forks, first without pin_guard.ko, which is the file system's own way, then with it.
# shellcheck disable=SC2034,SC2154 # shared with the scripts and net.sh

JOBS=${PIN_GUARD_JOBS:-6}
STRESS_S=${PIN_GUARD_STRESS:-4}
DELAY=150ms	# each way

FULL=(forkscrew "dma_thread anon" "dma_thread thp" "dma_thread hugetlb" pthread_read_and_fork)
SHORT=("forkscrew --demo" "dma_thread anon")

# What is at hand: mounts, their names, and the tests on each of them.
MOUNTS=()
NAMES=()
TESTS=("${FULL[@]}")
PREPARED=	# the mounts have the file forkscrew, and it stays

# list - adds the names of the tests to ALL
ALL=()
list()
{
	local v

	for v in "${NAMES[@]}"; do
		ALL+=("${TESTS[@]/#/$v control }" "$v pin_guard loads"
			"${TESTS[@]/#/$v protected }" "$v pin_guard unloads")
	done
}

# netem off|NETEM ARGUMENT... - on a link of ours, on the way to the server and back
netem()
{
	[ -n "$NET_MARK" ] || return 0
	net_netem local "$@"
	[ "$NET_DEV" = lo ] || net_netem remote "$@"
}

# round NAME DIRECTORY OPTION... - $TESTS
round()
{
	local name=$1 dir=$2 t seconds=$STRESS_S

	shift 2
	# A control ends with its first loss.
	[ "${1:-}" != --control ] || seconds=$((STRESS_S * 8))
	for t in "${TESTS[@]}"; do
		pg_wanted "$name $t" || continue
		case $t in
		forkscrew*)
			# shellcheck disable=SC2086 # may come with an option
			[ -n "$PREPARED" ] || "$PG_HERE"/$t --fill "$dir/forkscrew" | sed 's/^/# /'
			netem delay "$DELAY"
			# shellcheck disable=SC2086 # may come with an option
			pg_run "$name $t" "$PG_HERE"/$t -j "$JOBS" "$@" --filled "$dir/forkscrew"
			netem off
			[ -n "$PREPARED" ] || rm -f "$dir/forkscrew"
			;;
		dma_thread*)
			pg_run "$name $t" "$PG_HERE/dma_thread" -t "$seconds" -m "${t#* }" "$@" "$dir"
			;;
		soak)
			pg_run "$name $t" "$PG_HERE/soak" -t $((seconds * 4)) "$@" "$dir"
			;;
		*)
			pg_run "$name $t" "$PG_HERE/$t" -t "$seconds" "$@" "$dir"
			;;
		esac
	done
}

# skip KIND REASON - all tests of $NAMES
skip()
{
	local v t

	for v in "${NAMES[@]}"; do
		[ "$1" = control ] || pg_skip "$v pin_guard loads" "$2"
		for t in "${TESTS[@]}"; do
			pg_skip "$v $1 $t" "$2"
		done
		[ "$1" = control ] || pg_skip "$v pin_guard unloads" "$2"
	done
}

# mounts - $MOUNTS, first all controls
mounts()
{
	local i v

	for i in "${!MOUNTS[@]}"; do
		round "${NAMES[i]} control" "${MOUNTS[i]}" --control
	done
	if ! pg_have pin_guard; then
		skip protected "no pin_guard.ko: set PIN_GUARD_MODULES"
		return
	fi
	for i in "${!MOUNTS[@]}"; do
		v=${NAMES[i]}
		pg_any "$v p*" || continue
		pg_check "$v pin_guard loads" pg_load pin_guard
		round "$v protected" "${MOUNTS[i]}"
		pg_check "$v pin_guard unloads" pg_unload pin_guard
	done
}

# wanted - is any test of $NAMES?
wanted()
{
	local v

	for v in "${NAMES[@]}"; do
		! pg_any "$v *" || return 0
	done
	return 1
}

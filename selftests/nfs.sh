#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Reads with O_DIRECT over NFS, while the process forks: without pin_guard.ko they are lost,
# with it they are not. Mounts its own servers, on lo and at the other end of NICs (see net.sh),
# or takes mount points as arguments (KSELFTEST_NFS_SH_ARGS="/mnt/a /mnt/b").

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"

JOBS=${PIN_GUARD_JOBS:-6}
STRESS_S=${PIN_GUARD_STRESS:-4}

LINKS=()
if [ $# -eq 0 ]; then
	net_init "$@"
	# Of our own veth there is nothing to be seen that lo has not.
	for link in $(net_links); do
		[ -z "${NETIF:-}" ] && [ "$link" = veth ] || LINKS+=("$link")
	done
else
	pg_isolate "$@"
fi
MODULE=()
pg_have pin_guard && MODULE=(protected)

MOUNTS=("$@")
NAMES=("$@")
FULL=(forkscrew "dma_thread anon" "dma_thread thp" "dma_thread hugetlb" pthread_read_and_fork)
SHORT=("forkscrew --demo" "dma_thread anon")
TESTS=("${FULL[@]}")

# Each mount: the file system's own way, and then with the module.
PLAN=$(($# * 12 + 2))
for link in "${LINKS[@]}"; do
	case $link in
	lo) PLAN=$((PLAN + 24)) ;;
	*) PLAN=$((PLAN + 6)) ;;
	esac
done
pg_start "$PLAN"
pg_unload_all
pg_memory 24
health_begin
DELAY=$(pg_delay 150)ms	# each way

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
		case $t in
		forkscrew*)
			netem delay "$DELAY"
			# shellcheck disable=SC2086 # may come with an option
			pg_run "$name $t" "$PG_HERE"/$t -j "$JOBS" "$@" "$dir"
			netem off
			;;
		dma_thread*)
			pg_run "$name $t" "$PG_HERE/dma_thread" -t "$seconds" -m "${t#* }" "$@" "$dir"
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
	local v t all=("${TESTS[@]}")

	[ "$1" = control ] || all=("pin_guard loads" "${TESTS[@]}" "pin_guard unloads")
	for v in "${NAMES[@]}"; do
		for t in "${all[@]}"; do
			pg_skip "$v $1 $t" "$2"
		done
	done
}

# mounts - $MOUNTS, first all controls
mounts()
{
	local i v

	for i in "${!MOUNTS[@]}"; do
		round "${NAMES[i]} control" "${MOUNTS[i]}" --control
	done
	if [ ${#MODULE[@]} = 0 ]; then
		skip protected "no pin_guard.ko: set PIN_GUARD_MODULES"
		return
	fi
	for i in "${!MOUNTS[@]}"; do
		v=${NAMES[i]}
		pg_check "$v pin_guard loads" pg_load pin_guard
		round "$v protected" "${MOUNTS[i]}"
		pg_check "$v pin_guard unloads" pg_unload pin_guard
	done
}

# over LINK - from servers of ours; says why not
over()
{
	local v

	MOUNTS=()
	if [ -n "${NETIF:-}" ] && [ "$REMOTE_TYPE" = ssh ]; then
		echo "no server of ours behind ssh; fix: KSELFTEST_NFS_SH_ARGS=a mount over $NETIF"
		return 1
	fi
	net_up "$1" || return
	[ -n "$REMOTE_V4" ] || { echo "no IPv4"; return 1; }
	PG_NFS_SERVER=$REMOTE_V4 PG_NFS_CLIENT=$LOCAL_V4 PG_NFS_AT=("${NET_AT[@]}")
	pg_nfs_server || return
	for v in "${NAMES[@]##*v}"; do
		pg_nfs_mount "$v" "$PG_RUN/mnt/$v" || { echo "cannot mount NFS v$v"; return 1; }
		MOUNTS+=("$PG_RUN/mnt/$v")
	done
}

[ $# -eq 0 ] || mounts
for link in "${LINKS[@]}"; do
	case $link in
	lo)
		NAMES=(v4.2 v3)
		TESTS=("${FULL[@]}")
		;;
	*)
		NAMES=("$link v4.2")
		TESTS=("${SHORT[@]}")
		;;
	esac
	if over "$link" >"$PG_TMP/why"; then
		mounts
	else
		skip control "$(<"$PG_TMP/why")"
		skip protected "$(<"$PG_TMP/why")"
	fi
	net_down
done

health_end
pg_finish

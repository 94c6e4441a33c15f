#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Reads and writes in flight, raced by forks and by all that may happen to memory, over NFS and Ceph
# and on /dev/pin_guard_dma, for PIN_GUARD_SOAK seconds in all, with a control for each; PIN_GUARD_SEED
# is for the choices, to make them once more.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"
# shellcheck source=cluster.sh
. "$PG_HERE/cluster.sh"
unset NETIF	# the link is our own

SECONDS_IN_ALL=${PIN_GUARD_SOAK:-$([ "${PIN_GUARD_PROFILE:-}" = quick ] && echo 20 || echo 60)}
VERSIONS=(4.2 3)
DELAYS=(0ms 2ms 10ms 25ms)	# each way, in turn
DMA=/dev/pin_guard_dma

pg_isolate "$@"
pg_start "v4.2 control" "v3 control" "ceph control" "pin_guard loads" "pin_guard_dma loads" v4.2 v3 ceph \
	"dma control" "dma window" "dma pin" "forks were in the way of windows" "all of the race ran" \
	"pin_guard_dma and pin_guard unload"
for m in pin_guard pin_guard_dma; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
pg_unload_all
pg_memory 80
health_begin

# weather COMMAND... - that takes a delay. Long and short reads: what a delay of the wire hits
# differs.
weather()
{
	local delay

	while :; do
		for delay in "${DELAYS[@]}"; do
			"$@" "$delay"
			sleep 3
		done
	done
}

ceph_delay()
{
	net_netem local delay "$1"
	net_netem remote delay "$1"
}

# soak NAME PERCENT OPTION... - for that part of the time
soak()
{
	local name=$1 seconds=$((SECONDS_IN_ALL * $2 / 100 + 1)) pid rc=0

	shift 2
	pg_wanted "$name" || return 0
	"$PG_HERE/soak" -t "$seconds" ${PIN_GUARD_SEED:+-s "$PIN_GUARD_SEED"} "$@" \
		>"$PG_TMP/output" 2>&1 &
	pid=$!
	tail -n +1 -f -s 0.5 --pid=$pid "$PG_TMP/output" | sed -u "s/^/# $name: /"
	wait $pid || rc=$?
	grep -q '^ok' "$PG_TMP/output" || rc=$KSFT_FAIL
	! grep -q '^ok.*# SKIP' "$PG_TMP/output" || rc=$KSFT_SKIP
	case $rc in
	"$KSFT_PASS" | "$KSFT_SKIP") ;;
	*) grep -v '^#' $NFS_SAID/trace 2>/dev/null | tail -n 30 | sed 's/^/# nfs: /' ;;
	esac
	pg_result "$name" "$rc"
}

# protected NAME PERCENT OPTION... - and adds up what it has counted
protected()
{
	pg_wanted "$1" || return 0
	soak "$@"
	sed -n 's/^# counts: //p' "$PG_TMP/output" >>"$PG_TMP/counts"
}

sum()
{
	tr ' ' '\n' <"$PG_TMP/counts" | awk -F= '
		!($1 in sum) { name[n++] = $1 }
		{ sum[$1] += $2 }
		END { for (i = 0; i < n; i++) printf " %s=%d", name[i], sum[name[i]] }'
}

# what became of the pages, according to the kernel
effects()
{
	awk 'NR == FNR { before[$1] = $2; next }
		$1 ~ /^(pswpout|thp_collapse_alloc|thp_split_pmd|thp_split_page)$/ {
			printf " %s=%d", $1, $2 - before[$1]
		}' "$PG_TMP/vmstat" /proc/vmstat
}

# What has not happened; but for what only does where memory is short, or a file system lets itself
# be interrupted, and what this machine cannot do. What the kernel does by itself is sure in an hour.
never()
{
	{ sum; [ "$SECONDS_IN_ALL" -lt 3600 ] || effects; } | tr ' ' '\n' |
		sed -n 's/=0$//p' | grep -vxE "lost|interrupted|forks_refused${WHY_server:+|writes}" | xargs
}

# all_ran - on a slow machine that takes longer
all_ran()
{
	local on=(--mode window "$DMA") missing

	[ -n "$WHY_server" ] || on=("$PG_RUN/mnt/4.2")
	for _ in {1..10}; do
		missing=$(never)
		[ -n "$missing" ] || return 0
		ktap_print_msg "has not happened yet: $missing"
		if ! "$PG_HERE/soak" -t 30 "${on[@]}" >"$PG_TMP/output" 2>&1; then
			sed 's/^/# /' "$PG_TMP/output"
			return 1
		fi
		sed -n 's/^# counts: //p' "$PG_TMP/output" >>"$PG_TMP/counts"
	done
	return 1
}

# What NFS and RPC say of errors, shown when a read has failed.
NFS_SAID=/sys/kernel/tracing/instances/pin_guard_soak
nfs_listen()
{
	local event filter

	mkdir -p $NFS_SAID || return	# one may be left of a run that was killed
	pg_undo rmdir $NFS_SAID
	while read -r event filter; do
		[ -z "$filter" ] || echo "$filter" >$NFS_SAID/events/"$event"/filter
		echo 1 >$NFS_SAID/events/"$event"/enable
	done <<-END
		nfs/nfs_pgio_error
		nfs4/nfs4_read error != 0
		nfs4/nfs4_xdr_status error != 0 && error != 2
		nfs4/nfs4_state_mgr_failed
		sunrpc/rpc_call_rpcerror
		sunrpc/rpc__garbage_args
		sunrpc/rpc__unparsable
		sunrpc/rpc_xdr_overflow
		nfsd/nfsd_read_err
		nfsd/nfsd_compound_status status != 0 && status != 2
	END
}

# server - and mounts of it; says why not
server()
{
	local v

	modprobe -q sch_netem
	pg_nfs_server || return
	for v in "${VERSIONS[@]}"; do
		pg_nfs_mount "$v" "$PG_RUN/mnt/$v" || { echo "cannot mount NFS v$v"; return 1; }
	done
	nfs_listen
	weather pg_netem >/dev/null 2>&1 &
	pg_undo kill $!
}

# cluster - and a mount of it; says why not
cluster()
{
	net_up veth && ceph_cluster memstore 1 && ceph_mount "$PG_RUN/mnt/ceph" || return
	weather ceph_delay >/dev/null 2>&1 &
	pg_undo kill $!
}

# why COMMAND... - not: nothing, if it went well
why()
{
	local why=''

	"$@" >"$PG_TMP/why" 2>&1 || why=$(tail -n 1 "$PG_TMP/why")
	declare -g "WHY_$1=$why"
}

WHY_server="not asked for" WHY_cluster=$WHY_server
! pg_any "v*" || why server
! pg_any "ceph*" || why cluster

# over WHY NAME FUNCTION PERCENT DIRECTORY OPTION...
over()
{
	if [ -z "$1" ]; then
		"$3" "$2" "$4" "${@:6}" "$PG_RUN/mnt/$5"
	else
		pg_skip "$2" "$1"
	fi
}

nfs()
{
	over "$WHY_server" "$@"
}

device()
{
	pg_load pin_guard_dma && pg_wait 5 test -c $DMA
}

# A control ends with its first loss, and has time for it in a short run, too.
CONTROL=$((SECONDS_IN_ALL < 600 ? 500 : 50))
for v in "${VERSIONS[@]}"; do
	nfs "v$v control" soak $CONTROL "$v" --control
done
over "$WHY_cluster" "ceph control" soak $CONTROL ceph --control

cat /proc/vmstat >"$PG_TMP/vmstat"
pg_check "pin_guard loads" pg_load pin_guard
pg_check "pin_guard_dma loads" device
nfs "v4.2" protected 30 4.2
nfs "v3" protected 20 3
over "$WHY_cluster" ceph protected 20 ceph
soak "dma control" $CONTROL --mode get $DMA
protected "dma window" 15 --mode window $DMA
protected "dma pin" 15 --mode pin $DMA
[ ! -r /sys/kernel/debug/pin_guard/counters ] || sed 's/^/# /' /sys/kernel/debug/pin_guard/counters
if pg_wanted "forks were in the way of windows"; then
	pg_check "forks were in the way of windows" test "$(pg_counter forks_pinned)" -gt 0
fi
if pg_wanted "all of the race ran"; then
	pg_check "all of the race ran" all_ran
fi
pg_check "pin_guard_dma and pin_guard unload" pg_unload pin_guard_dma pin_guard
echo "# soak: kernel=$(uname -r)$(effects)$(sum)"

health_end
pg_finish

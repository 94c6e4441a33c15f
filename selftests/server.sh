#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Trouble with an NFS server or the way to it, while O_DIRECT reads are in flight and the process
# forks: first without pin_guard.ko, then with it. It ends the same way, except that nothing is
# lost with the module; and the module is not unloaded from under a read, nor waits for one.

# The kernel's threads are not in the PID namespace that pg_isolate makes.
if [ -z "${PG_ISOLATED:-}" ]; then
	exec {PROC}</proc
	export PROC
fi
# The server and the links are our own.
unset NETIF

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"
# shellcheck source=inflight.sh
. "$PG_HERE/inflight.sh"

MNT=$PG_RUN/mnt/server
DISK=$PG_RUN/export/disk	# ext4 on the server: can be frozen
RACE_S=${PIN_GUARD_STRESS:-6}
STALL_S=4	# for which the workers' CPU time is looked at

SCENARIOS=(cut_v3 restart_v4.2 soft_v3 umount_f_v4.2 kill_pread kill_libaio stall_v3 race_v4.2)
declare -A WHAT=(
	[cut_v3]="network cut and mended, v3"
	[restart_v4.2]="server stopped and started, v4.2"
	[soft_v3]="network cut, soft mount, v3"
	[umount_f_v4.2]="umount -f, v4.2"
	[kill_pread]="SIGKILL on a hung hard mount, pread"
	[kill_libaio]="SIGKILL on a hung hard mount, libaio"
	[stall_v3]="server stalls, send buffers full, short timeo, v3"
	[race_v4.2]="open, rename, unlink by two clients, v4.2"
)

pg_isolate "$@"
ALL=()
scenarios_list
pg_start "${ALL[@]}"
pg_unload_all
health_begin

#
# The server and the clients
#

# Of the namespaces, and so of this run: buffers that are soon full, and no long wait for a
# retransmission when the network is mended.
sysctls()
{
	local at

	for at in "" "${NET_AT[*]}"; do
		# shellcheck disable=SC2086 # a command
		$at sysctl -qew net.ipv4.tcp_wmem="4096 16384 65536" \
			net.ipv4.tcp_rmem="4096 16384 65536" net.ipv4.tcp_rto_max_ms=1000 ||
			return
	done
}

server_start()
{
	"${NET_AT[@]}" rpc.nfsd --no-udp 8
}

server_stop()
{
	pg_undo server_start
	"${NET_AT[@]}" rpc.nfsd 0
}

# A second client: its own network namespace, link and name.
second_client()
{
	: >"$PG_TMP/second" && unshare --net="$PG_TMP/second" true &&
		exec {SECOND}<"$PG_TMP/second" && umount -l "$PG_TMP/second" || return
	SECOND_AT=(nsenter "--net=/proc/self/fd/$SECOND" --)
	"${SECOND_AT[@]}" ip link set lo up &&
		ip link add veth2 netns "/proc/self/fd/$SECOND" type veth \
			peer name veth3 netns "/proc/self/fd/$NET_FD" &&
		net_address veth2 198.51.100.1 "" "${SECOND_AT[@]}" &&
		net_address veth3 198.51.100.2 "" "${NET_AT[@]}"
}

# shellcheck disable=SC2016 # of the inner shell
second_mount()
{
	mkdir -p "$1" && "${SECOND_AT[@]}" unshare --uts sh -c 'hostname pin-guard-second &&
		mount -t nfs -o vers=4.2,proto=tcp 198.51.100.2:/ "$1"' sh "$1" &&
		pg_undo umount -l "$1"
}

disk()
{
	modprobe -q loop
	mkdir -p "$DISK" && truncate -s 64M /run/disk &&
		mkfs.ext4 -q /run/disk && mount -o loop /run/disk "$DISK" || return
	pg_undo umount -l "$DISK"
	chmod 777 "$DISK"
	pg_nfs_export disk && pg_undo "${NET_AT[@]}" exportfs -u "*:$DISK"
}

setup()
{
	local tool

	for tool in mkfs.ext4 fsfreeze ss hostname; do
		command -v $tool >/dev/null || { echo "no $tool"; return 1; }
	done
	net_up veth || return
	PG_NFS_SERVER=$REMOTE_V4 PG_NFS_CLIENT="*" PG_NFS_AT=("${NET_AT[@]}")
	sysctls || { echo "no sysctl"; return 1; }
	pg_nfs_server && second_client && disk
}

#
# CPU time of the kernel's workers: rpciod, xprtiod and nfsiod are workqueues
#

# each, and its clock ticks
workers()
{
	cat /proc/self/fd/"$PROC"/[1-9]*/stat 2>/dev/null | awk '
		/\((kworker\/|nfsd)/ { pid = $1; sub(/.*\) /, ""); print pid, $12 + $13 }'
}

uptime_ms()
{
	local up

	read -r up _ </proc/uptime
	echo "${up/./}0"
}

# workers_took COMMAND... - percent of one CPU that they take meanwhile, into TOOK
workers_took()
{
	local start ms ticks rc

	start=$(uptime_ms)
	workers >"$PG_TMP/workers"
	"$@"
	rc=$?
	# They come and go. One that goes has been idle for minutes.
	ticks=$(workers | awk 'NR == FNR { before[$1] = $2; next } { sum += $2 - before[$1] }
		END { print sum + 0 }' "$PG_TMP/workers" -)
	ms=$(($(uptime_ms) - start))
	TOOK=$((ticks * 100000 / $(getconf CLK_TCK) / ms))
	say "the kernel's workers took $TOOK % of a CPU for $ms ms: $*"
	return $rc
}

#
# The scenarios: return as a test does
#

restart()
{
	pg_nfs_mount "$1" "$MNT" && reads_open "$MNT" || return
	net_cut && ask submit submitted && hold || return
	server_stop && net_mend && sleep 1 && hold || return
	server_start && reads_end right && read_again
}

cut()
{
	pg_nfs_mount "$1" "$MNT" && reads_open "$MNT" || return
	net_cut && ask submit submitted && hold && sleep 1 && hold || return
	net_mend && reads_end right && read_again
}

soft()
{
	pg_nfs_mount 3 "$MNT" "" soft,timeo=40,retrans=1 && reads_open "$MNT" || return
	net_cut && ask submit submitted && hold && reads_end fails EIO ETIMEDOUT || return
	# The first may time out, too, until there is a connection.
	await no_window_is_open && net_mend && await read_again
}

umount_f()
{
	pg_nfs_mount "$1" "$MNT" && reads_open "$MNT" || return
	net_cut && ask submit submitted && hold || return
	timeout 20 umount -f "$MNT" 2>/dev/null
	outcome "umount says $?" || return
	# rpc_signal_task() says ERESTARTSYS, and nobody makes it EIO.
	reads_end fails EIO ERESTARTSYS && await no_window_is_open || return
	net_mend && read_again
}

# What is not killable without the module (aio waits in exit) may be not with it.
kill9()
{
	local gone="not before the server is back"

	pg_nfs_mount 4.2 "$MNT" && reads_open "$MNT" -i "$1" || return
	net_cut && ask submit submitted && hold || return
	kill -9 "$READS_PID"
	LIMIT=8 await is_gone "$READS_PID" && gone="at once"
	say "is gone $gone"
	outcome "is gone $gone" || return
	[ "$1" != pread ] || [ "$gone" = "at once" ] || return
	net_mend && await is_gone "$READS_PID" && say "has gone" && await no_window_is_open || return
	fault "$READS" 0 "SIGKILL"
}

send_queue()
{
	ss -Htn dst "$REMOTE_V4" dport = 2049 | awk '{ sum += $3 } END { print sum + 0 }'
}

send_buffers_are_full()
{
	[ "$(send_queue)" -ge 32768 ]
}

writes()
{
	local i

	WRITERS=()
	for i in 0 1 2 3; do
		dd if="$PG_TMP/source" of="$MNT/writer.$i" bs=1M oflag=direct conv=notrunc \
			2>"$PG_TMP/dd.$i" &
		WRITERS+=($!)
		pg_undo kill -9 $!
	done
}

# And all of it is there, as the server has it.
writes_end()
{
	local i

	for i in "${!WRITERS[@]}"; do
		if ! await is_gone "${WRITERS[i]}" || ! wait "${WRITERS[i]}"; then
			say "writer $i: $(tail -n 1 "$PG_TMP/dd.$i")"
			return 1
		fi
		cmp "$PG_TMP/source" "$DISK/writer.$i" >"$PG_TMP/cmp" 2>&1 && continue
		say "writer $i: $(<"$PG_TMP/cmp")"
		return 1
	done
}

# requests over NFS on $MNT that were sent more than once
sent_again()
{
	awk -v mnt="$MNT" '$1 == "device" { ours = $5 == mnt; again = ours ? 0 : again }
		ours && /^\t *[A-Z_]+: / { again += $3 - $2 }
		END { print again + 0 }' /proc/self/mountstats
}

# stall_for SECONDS LIMIT - writes that the server does not take, and reads behind them
stall_for()
{
	head -c 2M /dev/urandom >"$PG_TMP/source"
	fsfreeze -f "$DISK" && pg_undo fsfreeze -u "$DISK" || return
	writes
	await send_buffers_are_full || { say "the send buffers are not full"; return 1; }
	say "$(send_queue) bytes in the send buffer"
	ask submit submitted && hold && workers_took sleep "$1" && hold || return
	if [ "$TOOK" -ge "$2" ]; then
		say "expected less than $2 %: than when they work, and than a third"
		return 1
	fi
	await send_buffers_are_full || { say "the send buffers are full no more"; return 1; }
	fsfreeze -u "$DISK" && reads_end right && writes_end && read_again
}

stall()
{
	local limit again seconds

	pg_nfs_mount 3 "$MNT" disk rsize=65536,wsize=65536,timeo=10,retrans=2 || return
	head -c 2M /dev/urandom >"$PG_TMP/source"
	workers_took eval "writes; writes_end" || return
	# Where work takes next to nothing, so may the stall.
	limit=$((TOOK < 5 ? 5 : TOOK < 33 ? TOOK : 33))
	reads_open "$MNT" || return
	# By timeo, requests are sent again, if their answer does not come first once it goes on.
	for seconds in $STALL_S $((STALL_S * 2)) $((STALL_S * 4)); do
		SEEN=
		stall_for "$seconds" $limit || return
		again=$(sent_again)
		say "$again requests were sent again"
		[ "$again" = 0 ] || return 0
	done
	return 1
}

race()
{
	local rc option=() words

	pg_nfs_mount 4.2 "$MNT" && second_mount "$MNT.second" || return
	net_netem local delay 3ms && net_netem remote delay 3ms || return
	[ "$ROUND" = protected ] || option=(-C)
	"$PG_HERE/nfs_race" "${option[@]}" -t "$RACE_S" "$MNT" "$MNT.second" >"$PG_TMP/race" 2>&1
	rc=$?
	sed 's/^/# /' "$PG_TMP/race"
	read -ra words <<<"$(grep ' reads, ' "$PG_TMP/race")"
	fault "${words[1]:-0}" "${words[9]:-0}"
	[ $rc != 0 ] || ! grep -q '^ok.*# SKIP' "$PG_TMP/race" || rc=$KSFT_SKIP
	return "$rc"
}

scenario()
{
	case $NAME in
	restart_*) restart "${NAME#*_v}" ;;
	cut_*) cut "${NAME#*_v}" ;;
	soft_*) soft ;;
	umount_f_*) umount_f "${NAME#*_v}" ;;
	kill_*) kill9 "${NAME#*_}" ;;
	stall_*) stall ;;
	race_*) race ;;
	esac
}

if ! setup >"$PG_TMP/why" 2>&1; then
	pg_skip_all "$(tail -n 1 "$PG_TMP/why")"
fi
scenarios

health_end
pg_finish

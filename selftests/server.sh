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
# shellcheck source=net.sh
. "$PG_HERE/net.sh"

MNT=$PG_RUN/mnt/server
DISK=$PG_RUN/export/disk	# ext4 on the server: can be frozen
RACE_S=${PIN_GUARD_STRESS:-6}
STALL_S=4	# for which the workers' CPU time is looked at
LIMIT=180	# seconds for a scenario, on a slow machine; it hangs if it takes more

read -ra SCENARIOS <<<"${PIN_GUARD_SCENARIOS:-cut_v3 restart_v4.2 soft_v3 \
	umount_f_v4.2 kill_pread kill_libaio stall_v3 race_v4.2}"
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
ROUNDS=(control)
pg_have pin_guard && ROUNDS+=(protected)
pg_start $((${#SCENARIOS[@]} * 2 + 4))
pg_unload_all
health_begin

declare -A OUTCOME=()	# of a scenario's control
ROUND=
NAME=

say()
{
	ktap_print_msg "$ROUND ${WHAT[$NAME]}, $((SECONDS - START)) s: $*"
}

# fault READS LOST ERRNO - what a table can be made of
fault()
{
	ktap_print_msg "fault: ${WHAT[$NAME]}, $ROUND: runs=$1 lost=$2 errno=${3:-0}"
}

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
# The reads
#

# reads_open DIRECTORY [OPTION...] - the program that does them
reads_open()
{
	local dir=$1 to from

	shift
	coproc INFLIGHT { exec "$PG_HERE/inflight" "$@" "$dir/reads" 2>>"$PG_TMP/inflight"; }
	READS_PID=$INFLIGHT_PID
	disown "$READS_PID"	# or the shell reports its death
	# Copies, for the shell closes these in its subshells.
	exec {READS_TO}>&"${INFLIGHT[1]}" {READS_FROM}<&"${INFLIGHT[0]}"
	to=${INFLIGHT[1]} from=${INFLIGHT[0]}
	exec {to}>&- {from}<&-
	pg_undo kill -9 "$READS_PID"
	answer ready && READS=${ANSWER[1]}
}

reads_close()
{
	exec {READS_TO}>&- {READS_FROM}<&-
	READS_TO=
}

# await COMMAND... - until it succeeds, or the scenario has to end
await()
{
	until "$@"; do
		[ $SECONDS -lt "$DEADLINE" ] || return
		sleep 0.1
	done
}

# answer WORD - of the program, into ANSWER
answer()
{
	local left=$((DEADLINE - SECONDS))

	ANSWER=()
	read -rt $((left > 1 ? left : 1)) -a ANSWER <&"$READS_FROM" && [ "${ANSWER[0]}" = "$1" ] && return
	[ "${ANSWER[0]:-}" = skip ] && say "${ANSWER[*]}" && return "$KSFT_SKIP"
	say "expected $1, came: ${ANSWER[*]:-nothing within $LIMIT s}"
	return 1
}

# ask COMMAND WORD
ask()
{
	echo "$1" >&"$READS_TO" && answer "$2"
}

# all_in_flight - no read has ended
all_in_flight()
{
	ask count flying || return
	[ "${ANSWER[1]}" = "$READS" ] && return
	say "expected $READS reads in flight, came ${ANSWER[1]}"
	return 1
}

# hold - a fork comes back while the reads are in flight, and the module stays, at once
hold()
{
	local said

	ask fork forked || return
	say "fork took ${ANSWER[1]} ms"
	all_in_flight || return
	[ "$ROUND" = protected ] || return 0
	ask rmmod rmmod || return
	if [ "${ANSWER[1]}" != EAGAIN ]; then
		say "delete_module() with reads in flight: expected EAGAIN, came ${ANSWER[1]}"
		return 1
	fi
	said=$(rmmod pin_guard 2>&1)
	if [[ $said != *"in use"* ]]; then
		say "rmmod with reads in flight: expected 'in use', came ${said:-nothing}"
		return 1
	fi
	if [ "$(pg_counter windows_open)" -lt "$READS" ]; then
		say "expected $READS windows, came $(pg_counter windows_open)"
		return 1
	fi
	all_in_flight
}

# reads_end right | reads_end fails ERRNO... - all reads end, and the outcome is the control's
reads_end()
{
	local failed lost wrong errors

	ask wait ended || return
	failed=${ANSWER[2]} lost=${ANSWER[3]} wrong=${ANSWER[4]} errors=${ANSWER[*]:5}
	fault "$READS" "$lost" "${errors// /,}"
	if [ "$wrong" != 0 ]; then
		say "$wrong reads gave something else:"
		sed 's/^/# /' "$PG_TMP/inflight"
		return 1
	fi
	case $1 in
	right)
		if [ -n "$errors" ]; then
			say "expected no error, came $errors"
			return 1
		fi
		;;
	fails)
		if [ "$failed" != "$READS" ] || [[ " ${*:2} " != *" $errors "* ]]; then
			say "expected that $READS reads fail with ${*:2}, came" \
				"$failed with ${errors:-no error}"
			return 1
		fi
		;;
	esac
	outcome "errno ${errors:-none}" || return
	[ "$1" != right ] || kept "$lost"
}

# outcome TEXT - must be that of the control
outcome()
{
	if [ "$ROUND" = control ]; then
		OUTCOME[$NAME]+="$1; "
		return
	fi
	SEEN+="$1; "
	[[ ${OUTCOME[$NAME]} == "$SEEN"* ]] && return
	say "expected as without the module: ${OUTCOME[$NAME]} came: $SEEN"
	return 1
}

# kept LOST - what the control loses the module keeps
kept()
{
	LOST=$1
	[ "$ROUND" = control ] || [ "$1" = 0 ] && return
	say "expected no loss, came $1 reads lost"
	return 1
}

read_again()
{
	ask submit submitted && ask wait ended || return
	[ "${ANSWER[*]:2}" = "0 0 0" ] && return
	say "reading again: expected 0 0 0, came ${ANSWER[*]:2}"
	return 1
}

no_window_is_open()
{
	[ "$ROUND" = control ] || [ "$(pg_counter windows_open)" = 0 ]
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

is_gone()
{
	local stat

	! read -r stat 2>/dev/null <"/proc/$1/stat" || [[ $stat == *") Z "* ]]
}

# What is not killable without the module (aio waits in exit) may be not with it.
kill9()
{
	local gone="not before the server is back"

	pg_nfs_mount 4.2 "$MNT" && reads_open "$MNT" -i "$1" || return
	net_cut && ask submit submitted && hold || return
	kill -9 "$READS_PID"
	DEADLINE=$((SECONDS + 8)) await is_gone "$READS_PID" && gone="at once"
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

# writes that the server does not take, and reads behind them
stall()
{
	local limit again

	# The requests are sent again, the connection is given up and made anew, by timeo.
	pg_nfs_mount 3 "$MNT" disk rsize=65536,wsize=65536,timeo=10,retrans=2 || return
	head -c 2M /dev/urandom >"$PG_TMP/source"
	workers_took eval "writes; writes_end" || return
	# Where work takes next to nothing, so may the stall.
	limit=$((TOOK < 5 ? 5 : TOOK < 33 ? TOOK : 33))
	head -c 2M /dev/urandom >"$PG_TMP/source"
	reads_open "$MNT" && fsfreeze -f "$DISK" && pg_undo fsfreeze -u "$DISK" || return
	writes
	await send_buffers_are_full || { say "the send buffers are not full"; return 1; }
	say "$(send_queue) bytes in the send buffer"
	ask submit submitted && hold && workers_took sleep $STALL_S && hold || return
	if [ "$TOOK" -ge $limit ]; then
		say "expected less than $limit %: than when they work, and than a third"
		return 1
	fi
	await send_buffers_are_full || { say "the send buffers are full no more"; return 1; }
	fsfreeze -u "$DISK" && reads_end right && writes_end && read_again || return
	again=$(sent_again)
	say "$again requests were sent again"
	[ "$again" -gt 0 ]
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

# in a state of its own
run()
{
	local mark=${#PG_UNDO[@]} rc

	SEEN='' LOST='' START=$SECONDS DEADLINE=$((SECONDS + LIMIT))
	: >"$PG_TMP/inflight"
	scenario
	rc=$?
	[ -z "${READS_TO:-}" ] || reads_close
	pg_cleanup "$mark"
	await is_gone "${READS_PID:-0}"
	if [ $rc = 0 ] && [ "$ROUND $LOST" = "control 0" ]; then
		say "no loss: this kernel keeps the data by itself"
		rc=$KSFT_SKIP
	elif [ $rc = 0 ] && [ "$ROUND" = protected ] && ! await no_window_is_open; then
		say "$(pg_counter windows_open) windows are open"
		rc=1
	fi
	pg_result "$ROUND ${WHAT[$NAME]}" "$rc" "$((SECONDS - START)) s"
}

if ! setup >"$PG_TMP/why" 2>&1; then
	pg_skip_all "$(tail -n 1 "$PG_TMP/why")"
fi
for ROUND in control protected; do
	if [ $ROUND = protected ] && [ ${#ROUNDS[@]} = 1 ]; then
		for NAME in "" "${SCENARIOS[@]}" ""; do
			pg_skip "protected ${WHAT[$NAME]:-pin_guard}" "no pin_guard.ko"
		done
		continue
	fi
	[ $ROUND = control ] || pg_check "pin_guard loads" pg_load pin_guard
	for NAME in "${SCENARIOS[@]}"; do
		run
	done
	[ $ROUND = control ] || pg_check "pin_guard unloads" pg_wait 20 pg_unload pin_guard
done

health_end
pg_finish

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The send guard, through /dev/pin_guard_tx, on each link: what is sent without a copy arrives
# as it was, though the memory is reused when it is said to be free. See net.sh for a NIC and a
# peer of your own.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"

JOBS=${PIN_GUARD_JOBS:-8}
ACK_MS=150	# how much later acknowledgments come
UDP_MS=800	# how long a datagram can be overwritten, at least
SECOND_MS=600	# how much later than the peer a second device has all, at least

net_init "$@"
read -ra LINKS <<<"$(net_links)"
[ -n "${NETIF:-}" ] || LINKS+=("${NET_OVER[@]}")

# On each link, in this order
TESTS=(send_guard "delayed ACKs" loss capture "checksum off" "TSO off" "SG off" UDP
       "peer gone" "killed: the pages stay pinned" "killed: rmmod is refused"
       "killed: the connection's end gives them back")
for mode in splice guard registered copy; do
	TESTS+=("blktest2 $mode v4" "blktest2 $mode v6")
done
TESTS_SECOND=("second device" "second device control")
# On the first of them
ANY_LINK=(interface "taken over in flight" "MTU probing")
ONCE=("pin_guard_tx loads" "a second load is refused" "a read in flight is lost without pin_guard"
      "a read in flight is kept with it" "pin_guard_tx unloads")

NAMES=()
for link in "${LINKS[@]}"; do
	NAMES+=("${TESTS[@]/#/$link }")
	case $link in bridge | mirred) NAMES+=("${TESTS_SECOND[@]/#/$link }") ;; esac
done
pg_start "${NAMES[@]}" "${ANY_LINK[@]}" "${ONCE[@]}"
net_leave_out
for m in pin_guard pin_guard_tx; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
pg_unload_all
pg_set /proc/sys/vm/nr_hugepages 8
modprobe -q -a tls tcp_diag
health_begin

#
# Tests
#

# guard OPTION... CASE... - over both families
guard()
{
	"$PG_HERE/send_guard" -j "$JOBS" -n "$TEST" \
		${REMOTE_V4:+-a "$REMOTE_V4"} ${REMOTE_V6:+-a "$REMOTE_V6"} "$@"
}

# run NAME COMMAND... - of the link that is up
run()
{
	TEST="$NET_NAME $1"
	[ "$1" != send_guard ] || TEST=$NET_NAME
	pg_run "$NET_NAME $1" "${@:2}"
}

# with_feature NAME CASE... - that feature off
with_feature()
{
	local test=$1 feature=$2 mark=${#PG_UNDO[@]}

	if net_feature local "$feature" off; then
		run "$test" guard "${@:3}"
		pg_cleanup "$mark"
	else
		pg_skip "$NET_NAME $test" "$NET_DEV cannot turn $feature off"
	fi
}

# files N PATTERN
files()
{
	local n=$1

	shift
	[ -e "$1" ] && [ $# -ge "$n" ]
}

# in_a_cut N COMMAND... - N of its processes wait for the link to be cut; CUT is its process
in_a_cut()
{
	local n=$1 i

	shift
	rm -rf "$PG_TMP/sync" && mkdir "$PG_TMP/sync"
	"$@" -s "$PG_TMP/sync" &
	CUT=$!
	for ((i = 0; i < 300; i++)); do
		files "$n" "$PG_TMP"/sync/ready.* && break
		pg_nap 0.1
	done
	files "$n" "$PG_TMP"/sync/ready.* && net_cut && touch "$PG_TMP/sync/cut"
}

gone()
{
	local families=(${REMOTE_V4:+4} ${REMOTE_V6:+6}) rc

	in_a_cut $((2 * ${#families[@]})) guard gone
	wait "$CUT"
	rc=$?
	net_mend
	return $rc
}

# A sender that is killed leaves its pages to the connection.
killed()
{
	local before=$PG_PINS i

	pg_any "$NET_NAME killed*" || return
	TEST=$NET_NAME
	in_a_cut 1 guard stuck >/dev/null 2>&1
	for ((i = 0; i < 300; i++)); do
		files 1 "$PG_TMP"/sync/sent.* && break
		pg_nap 0.1
	done
	for i in "$PG_TMP"/sync/sent.*; do
		kill -9 "${i##*.}" "$CUT"
	done
	wait "$CUT" 2>/dev/null
	pg_check "$NET_NAME killed: the pages stay pinned" pins_stay $((before + 100000 / $(getconf PAGESIZE)))
	pg_check "$NET_NAME killed: rmmod is refused" rmmod_is_refused
	ss -tK dst "${REMOTE_V4:-[$REMOTE_V6]}" dport = ":$NET_PORT" >/dev/null 2>&1
	pg_check "$NET_NAME killed: the connection's end gives them back" pg_wait 20 pg_pins_are_back
	net_mend
	pg_loaded pin_guard_tx || pg_load pin_guard_tx
}

pins_stay()
{
	sleep 0.5
	[ "$(pg_pins)" -ge "$1" ]
}

rmmod_is_refused()
{
	# Nobody has the device open any more.
	rmmod pin_guard_tx 2>&1 | grep -qiE "in use|busy|unavailable"
}

# later NAME COMMAND... - beside others, reported by later_end
later()
{
	local n=${#LATER[@]}

	pg_wanted "$NET_NAME $1" || return
	LATER+=("$1")
	shift
	"$@" >"$PG_TMP/later.$n" 2>&1 &
	LATER_PID+=($!)
}

later_result()
{
	wait "${LATER_PID[$1]}"
	local rc=$?

	cat "$PG_TMP/later.$1"
	return $rc
}

later_end()
{
	local i

	for i in "${!LATER[@]}"; do
		run "${LATER[i]}" later_result "$i"
	done
	LATER=() LATER_PID=()
}

blktest2()
{
	local mode=$1 address=$2

	if [ -z "$address" ]; then
		echo "# no such address"
		return "$KSFT_SKIP"
	fi
	case $mode in
	splice) set -- -m splice --control ;;
	registered) set -- -m guard --register -n 2 ;;
	*) set -- -m "$mode" ;;
	esac
	"$PG_HERE/blktest2" -n 1 "$@" "$address"
}

# second_device CASE kept|lost - the peer has it as it was; and what goes out at the second device, later?
second_device()
{
	local packets=$PG_TMP/packets said=$PG_TMP/tcpdump came=kept pid rc

	command -v tcpdump >/dev/null || { echo "# no tcpdump"; return "$KSFT_SKIP"; }
	: >"$said"
	tcpdump -i "$NET_SECOND" -Z root -B 16384 -w "$packets" 2>"$said" &
	pid=$!
	if pg_wait 20 grep -q "listening on" "$said"; then
		guard -d $((second_ms / 2)) "$1"
		rc=$?
		# A splice does not say when it is done.
		sleep $((2 * second_ms / 1000 + 1))
	fi
	# In the background it ignores SIGINT until it listens.
	kill $pid
	wait $pid
	[ "${rc:-}" = 0 ] || { sed 's/^/# /' "$said"; return "${rc:-1}"; }
	if [ "$(stat -c %s "$packets")" -lt 400000 ]; then
		echo "# too little has come to $NET_SECOND: $(tail -n 3 "$said" | xargs)"
		return 1
	fi
	# Of PEER_OVERWRITTEN, in a row
	! LC_ALL=C grep -aq ZZZZZZZZZZZZZZZZ "$packets" || came=lost
	[ $came = "$2" ] || { echo "# on $NET_SECOND the data is $came, not $2"; return 1; }
}

one_link()
{
	local mode second_ms mark

	run send_guard guard stream link mixed
	net_netem remote delay ${ACK_MS}ms
	run "delayed ACKs" guard -d $ACK_MS stream
	net_netem remote off
	net_netem local delay 10ms loss 5%
	run loss guard loss stream mixed
	net_netem local off
	run capture guard --capture stream mixed
	with_feature "checksum off" tx stream
	with_feature "TSO off" tso stream
	with_feature "SG off" sg stream
	if pg_wanted "$NET_NAME UDP"; then
		mark=${#PG_UNDO[@]}
		net_neighbours permanent
		pg_undo net_neighbours stale
		net_netem local delay "$(pg_delay $UDP_MS)ms"
		run UDP guard -j 10 udp
		pg_cleanup "$mark"
	fi
	run "peer gone" gone
	killed
	if [ -n "$NET_SECOND" ]; then
		second_ms=$(pg_delay $SECOND_MS)
		tc qdisc replace dev "$NET_SECOND" root netem limit 100000 delay "${second_ms}ms"
		run "second device" second_device guard kept
		run "second device control" second_device splice-received lost
		tc qdisc del dev "$NET_SECOND" root
	fi
	net_netem local delay 50ms loss 1%
	LATER=() LATER_PID=()
	for mode in splice guard registered copy; do
		later "blktest2 $mode v4" blktest2 $mode "$REMOTE_V4"
		later "blktest2 $mode v6" blktest2 $mode "$REMOTE_V6"
	done
	later_end
	net_netem local off
}

mtu_probing()
{
	local mark=${#PG_UNDO[@]}

	pg_set /proc/sys/net/ipv4/tcp_mtu_probing 2
	pg_run "MTU probing" guard mtu
	pg_cleanup "$mark"
}

# read_in_flight NAME PARAMETER... - over NFS on lo
read_in_flight()
{
	local name=$1

	shift
	pg_wanted "$name" || return
	if [ -n "$NO_NFS" ]; then
		pg_skip "$name" "$NO_NFS"
		return
	fi
	pg_unload pin_guard_tx pin_guard && pg_load pin_guard "$@" && pg_load pin_guard_tx
	pg_netem 150ms
	TEST=lo
	if [ $# -gt 0 ]; then
		pg_run "$name" guard -C -f "$PG_RUN/mnt/send/file" read-in-flight
	else
		pg_run "$name" guard -f "$PG_RUN/mnt/send/file" read-in-flight
	fi
	pg_netem_off
}

pg_check "pin_guard_tx loads" eval "pg_load pin_guard && pg_load pin_guard_tx"
pg_wait 5 test -c /dev/pin_guard_tx
pg_check "a second load is refused" eval "! pg_load pin_guard_tx 2>/dev/null"

ANY_WANTED=
for t in "${ANY_LINK[@]}"; do
	! pg_wanted "$t" || ANY_WANTED=1
done
for link in "${LINKS[@]}"; do
	[ -n "$ANY_WANTED" ] || pg_any "$link *" || continue
	if ! { net_up "$link" && net_peer; } >"$PG_TMP/why"; then
		for t in "${NAMES[@]}"; do
			[[ $t != "$link "* ]] || pg_skip "$t" "$(tail -n 1 "$PG_TMP/why")"
		done
		net_down
		continue
	fi
	if [ -n "$ANY_WANTED" ]; then
		ANY_WANTED=
		TEST=$NET_NAME
		pg_run interface guard once
		pg_run "taken over in flight" guard takeover
		mtu_probing
	fi
	one_link
	net_down
done
if [ -n "$ANY_WANTED" ]; then
	for t in "${ANY_LINK[@]}"; do
		pg_skip "$t" "no link"
	done
fi

NO_NFS=
if ! pg_any "a read in flight*"; then
	:
elif [ -n "${NETIF:-}" ]; then
	NO_NFS="no loopback of our own with NETIF"
elif ! { net_up lo && net_peer && pg_nfs_server && pg_nfs_mount 4.2 "$PG_RUN/mnt/send"; } \
	>"$PG_TMP/why"; then
	NO_NFS="no NFS: $(tail -n 1 "$PG_TMP/why")"
fi
read_in_flight "a read in flight is lost without pin_guard" nfs=0
read_in_flight "a read in flight is kept with it"
net_down
pg_check "pin_guard_tx unloads" pg_unload pin_guard_tx pin_guard

health_end
pg_finish

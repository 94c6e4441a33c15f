#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Whoever has I/O in flight gets signals, exits, execs, is killed for want of memory, and
# processors come and go: the end is the same as without pin_guard.ko, but that no data is lost.
# Reads over NFS on lo, and the sample devices. Lines "# fault:" say what came of each.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"

STRESS_S=${PIN_GUARD_STRESS:-4}
MNT=$PG_RUN/mnt/lifetime
CPU=/sys/devices/system/cpu/cpu1/online
# The OOM killer's reports have one, and no other of the words.
PG_COMPLAINTS=${PG_COMPLAINTS/|Call Trace:/}

unset NETIF
pg_isolate "$@"
pg_start "NFS without pin_guard" "pin_guard loads" NFS "CPU hotplug: reads and forks" \
	"pin_guard_dma loads" "DMA without protection" DMA "CPU hotplug: windows and forks" \
	"pin_guard_tx loads" send "CPU hotplug: sends" "all modules unload"
for m in pin_guard pin_guard_dma pin_guard_tx; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
pg_unload_all
net_up lo >"$PG_TMP/why" || pg_skip_all "no loopback: $(<"$PG_TMP/why")"
net_peer >"$PG_TMP/why" || pg_skip_all "$(<"$PG_TMP/why")"
health_begin
DELAY=$(pg_delay 150)ms	# each way

GROUP=()
if pg_memory_cgroup 2>"$PG_TMP/why"; then
	GROUP=(-g "$PG_GROUP")
else
	ktap_print_msg "no memory cgroup: $(<"$PG_TMP/why")"
fi

# lifetime NAME OPTION...
lifetime()
{
	pg_run "$1" "$PG_HERE/lifetime" -n "$1" "${GROUP[@]}" "${@:2}"
}

# reads NAME OPTION... - over NFS
reads()
{
	if [ -n "$NO_NFS" ]; then
		pg_skip "$1" "$NO_NFS"
		return
	fi
	pg_wanted "$1" || return
	pg_netem "$DELAY"
	lifetime "$@" nfs "$MNT"
	pg_netem_off
}

# in_hotplug NAME COMMAND... - while CPU 1 comes and goes
in_hotplug()
{
	local name="CPU hotplug: $1" cycles plugger

	shift
	pg_wanted "$name" || return
	if ! { [ -w $CPU ] && echo 0 >$CPU && echo 1 >$CPU; } 2>"$PG_TMP/why"; then
		pg_skip "$name" "no CPU 1 that can be taken offline: $(<"$PG_TMP/why")"
		return
	fi
	rm -f "$PG_TMP"/hotplug.*
	while [ ! -e "$PG_TMP/hotplug.stop" ]; do
		echo 0 >$CPU && sleep 0.2 && echo 1 >$CPU && echo >>"$PG_TMP/hotplug.cycles"
		sleep 0.2
	done 2>/dev/null &
	plugger=$!
	if pg_wait 60 test -s "$PG_TMP/hotplug.cycles"; then
		pg_run "$name" "$@"
	else
		pg_result "$name" "$KSFT_FAIL" "CPU 1 does not come and go"
	fi
	touch "$PG_TMP/hotplug.stop"
	wait $plugger
	cycles=$(cat "$PG_TMP"/hotplug.* | wc -l)
	ktap_print_msg "$name: CPU 1 has come and gone $cycles times"
}
if [ -w $CPU ]; then
	pg_set $CPU 1
fi

NO_NFS=
{ pg_nfs_server && pg_nfs_mount 4.2 "$MNT"; } >"$PG_TMP/why" || NO_NFS="no NFS: $(<"$PG_TMP/why")"

reads "NFS without pin_guard" --control
pg_check "pin_guard loads" pg_load pin_guard
reads NFS
if [ -n "$NO_NFS" ]; then
	pg_skip "CPU hotplug: reads and forks" "$NO_NFS"
else
	in_hotplug "reads and forks" "$PG_HERE/dma_thread" -t "$STRESS_S" "$MNT"
fi

pg_check "pin_guard_dma loads" pg_load pin_guard_dma
pg_wait 5 test -c /dev/pin_guard_dma
lifetime "DMA without protection" --control dma /dev/pin_guard_dma
lifetime DMA dma /dev/pin_guard_dma
in_hotplug "windows and forks" "$PG_HERE/forkscrew" -c fork --mode window /dev/pin_guard_dma

pg_check "pin_guard_tx loads" pg_load pin_guard_tx
pg_wait 5 test -c /dev/pin_guard_tx
net_netem local delay 20ms
lifetime send send "$REMOTE_V4"
in_hotplug sends "$PG_HERE/send_guard" -a "$REMOTE_V4" stream mixed
net_netem local off
pg_check "all modules unload" pg_unload pin_guard_tx pin_guard_dma pin_guard

health_end
pg_finish

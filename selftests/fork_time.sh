#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# How long forks take while I/O is in flight: over NFS on lo with a slow wire, on
# /dev/pin_guard_dma, and with a slow swap device. Each with pin_guard.ko loaded; what the times
# are compared with are forks of the same run that meet no window.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=disk.sh
. "$PG_HERE/disk.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"

MNT=$PG_RUN/mnt/fork_time

pg_isolate "$@"
pg_start "pin_guard and pin_guard_dma load" NFS device "slow swap" \
	"pin_guard_dma and pin_guard unload"
for m in pin_guard pin_guard_dma; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
pg_unload_all
health_begin
PIN_GUARD_DELAY_MS=$(pg_delay 500)
export PIN_GUARD_DELAY_MS
# Whoever multiplies them by something shows with fewer, too.
[ "${PIN_GUARD_PROFILE:-}" != quick ] || export PIN_GUARD_WINDOWS=${PIN_GUARD_WINDOWS:-8192}

# slow_swap - a device and a program that makes it slow, or says what is missing
slow_swap()
{
	pg_disk_tools || return
	modprobe dm-delay || { echo "no dm-delay"; return 1; }
	pg_memory_cgroup || return
	truncate -s "${PG_DISK_MB}M" "$PG_RUN/image" || return
	pg_undo pg_disk_down
	PG_DISK_LOOP=$(losetup --show -f "$PG_RUN/image") && pg_disk_good | pg_disk_table &&
		mkswap "/dev/mapper/$PG_DISK" && swapon -p 100 "/dev/mapper/$PG_DISK" || return
	pg_undo swapoff "/dev/mapper/$PG_DISK"
	cat >"$PG_TMP/swap" <<-END
		#!/bin/bash
		PG_DISK=$PG_DISK
		$(declare -f pg_disk_table)
		[ "\$1" = slow ] && ms=$PIN_GUARD_DELAY_MS
		echo "0 $PG_DISK_SECTORS delay $PG_DISK_LOOP 0 \${ms:-0} $PG_DISK_LOOP 0 0" | pg_disk_table
	END
	chmod +x "$PG_TMP/swap"
}

pg_check "pin_guard and pin_guard_dma load" \
	eval "pg_load pin_guard && pg_load pin_guard_dma && pg_wait 5 test -c /dev/pin_guard_dma"
if { pg_nfs_server && pg_nfs_mount 4.2 "$MNT"; } >"$PG_TMP/why"; then
	PIN_GUARD_DIR=$MNT pg_run "NFS" "$PG_HERE/fork_time" -f nfs
	pg_netem_off
else
	pg_skip "NFS" "$(<"$PG_TMP/why")"
fi
pg_run "device" "$PG_HERE/fork_time" -t windows_cost_what_their_pages_cost -t strangers_do_not_notice
if slow_swap >"$PG_TMP/why" 2>&1; then
	PIN_GUARD_SLOW_SWAP=$PG_TMP/swap PIN_GUARD_GROUP=$PG_GROUP \
		pg_run "slow swap" "$PG_HERE/fork_time" -t a_page_in_swap_is_not_waited_for
else
	pg_skip "slow swap" "$(tail -n 1 "$PG_TMP/why")"
fi
pg_check "pin_guard_dma and pin_guard unload" pg_unload_within 30 pin_guard_dma pin_guard

health_end
pg_finish

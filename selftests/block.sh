#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Negative controls: file systems on a slow block device. The block layer pins by itself, so
# nothing may be lost without the module; if it is, the tests are wrong, or the kernel is.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=disk.sh
. "$PG_HERE/disk.sh"

FILESYSTEMS=(ext4 xfs)

pg_isolate "$@"
NAMES=()
for fs in "${FILESYSTEMS[@]}"; do
	NAMES+=("$fs forkscrew" "$fs dma_thread" "$fs soak")
done
pg_start "${NAMES[@]}"
pg_unload_all
pg_disk_tools >"$PG_TMP/why" || pg_skip_all "$(<"$PG_TMP/why")"
modprobe dm-delay 2>/dev/null || pg_skip_all "no dm-delay.ko"
pg_memory 24
health_begin
DELAY_MS=$(pg_delay 400)

mount -t tmpfs -o size=$((PG_DISK_MB + 64))m tmpfs "$PG_RUN"

# delay MS - of the reads
delay()
{
	echo "0 $PG_DISK_SECTORS delay $PG_DISK_LOOP 0 $1 $PG_DISK_LOOP 0 0" | pg_disk_table
}

pg_undo pg_disk_down
for fs in "${FILESYSTEMS[@]}"; do
	pg_any "$fs *" || continue
	if ! pg_disk_up "$fs" "$PG_RUN/mnt" >"$PG_TMP/why" 2>&1; then
		pg_skip "$fs forkscrew" "$(cat "$PG_TMP/why")"
		pg_skip "$fs dma_thread" "no $fs"
		pg_skip "$fs soak" "no $fs"
		pg_disk_down
		continue
	fi
	echo x >"$PG_RUN/mnt/warm" && sync -f "$PG_RUN/mnt/warm"
	delay "$DELAY_MS"
	pg_run "$fs forkscrew" "$PG_HERE/forkscrew" -j 8 "$PG_RUN/mnt"
	delay 0
	pg_run "$fs dma_thread" "$PG_HERE/dma_thread" -t 2 "$PG_RUN/mnt"
	pg_run "$fs soak" "$PG_HERE/soak" -t 5 -a 512 "$PG_RUN/mnt"
	pg_disk_down
done

health_end
pg_finish

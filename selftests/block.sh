#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Negative controls: file systems on a slow block device. The block layer pins by itself, so
# nothing may be lost without the module; if it is, the tests are wrong, or the kernel is.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

DELAY_MS=400
IMAGE_MB=320	# the smallest that mkfs.xfs takes is 300
FILESYSTEMS=(ext4 xfs)
NAME=pin_guard_delay

pg_isolate "$@"
pg_start $((${#FILESYSTEMS[@]} * 2 + 2))
pg_unload pin_guard_dma pin_guard || pg_skip_all "pin_guard is loaded and busy"
for tool in dmsetup losetup blockdev; do
	command -v "$tool" >/dev/null || pg_skip_all "no $tool"
done
modprobe dm-delay 2>/dev/null || pg_skip_all "no dm-delay.ko"
modprobe loop 2>/dev/null
pg_memory 24
health_begin

mount -t tmpfs -o size=$((IMAGE_MB + 64))m tmpfs "$PG_RUN"

# delay MS - of the reads
delay()
{
	local table

	table="0 $(blockdev --getsz "$LOOP") delay $LOOP 0 $1 $LOOP 0 0"
	if dmsetup info "$NAME" >/dev/null 2>&1; then
		dmsetup --noudevsync suspend "$NAME" &&
			dmsetup --noudevsync load "$NAME" --table "$table" &&
			dmsetup --noudevsync resume "$NAME"
	else
		dmsetup --noudevsync create "$NAME" --table "$table" &&
			dmsetup mknodes "$NAME"
	fi
}

remove()
{
	umount "$PG_RUN/mnt" 2>/dev/null
	dmsetup --noudevsync remove --retry "$NAME" 2>/dev/null
	[ -z "${LOOP:-}" ] || losetup -d "$LOOP"
	rm -f "$PG_RUN/image"
	LOOP=
}

# make FILESYSTEM - and mount it on $PG_RUN/mnt, without a delay
make()
{
	command -v "mkfs.$1" >/dev/null || { echo "no mkfs.$1"; return 1; }
	truncate -s "${IMAGE_MB}M" "$PG_RUN/image" && mkdir -p "$PG_RUN/mnt" &&
		LOOP=$(losetup --show -f "$PG_RUN/image") && delay 0 &&
		"mkfs.$1" -q "/dev/mapper/$NAME" &&
		mount -t "$1" "/dev/mapper/$NAME" "$PG_RUN/mnt"
}

pg_undo remove
for fs in "${FILESYSTEMS[@]}"; do
	if ! make "$fs" >"$PG_TMP/why" 2>&1; then
		pg_skip "$fs forkscrew" "$(cat "$PG_TMP/why")"
		pg_skip "$fs dma_thread" "no $fs"
		remove
		continue
	fi
	echo x >"$PG_RUN/mnt/warm" && sync -f "$PG_RUN/mnt/warm"
	delay "$DELAY_MS"
	pg_run "$fs forkscrew" "$PG_HERE/forkscrew" -j 8 "$PG_RUN/mnt"
	delay 0
	pg_run "$fs dma_thread" "$PG_HERE/dma_thread" -t 2 "$PG_RUN/mnt"
	remove
done

health_end
pg_finish

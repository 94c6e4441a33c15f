#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the test scripts, after lib.sh: a disk of our own, which is a file system on a
# file, through the device mapper.
# shellcheck disable=SC2034,SC2154 # shared with the scripts and lib.sh

PG_DISK=pin_guard_disk
PG_DISK_MB=320	# the smallest that mkfs.xfs takes is 300
PG_DISK_LOOP=
PG_DISK_SECTORS=$((PG_DISK_MB * 2048))

# pg_disk_tools - or says what is missing
pg_disk_tools()
{
	local tool

	for tool in dmsetup losetup; do
		command -v "$tool" >/dev/null || { echo "no $tool"; return 1; }
	done
	modprobe loop 2>/dev/null
	modprobe dm-mod 2>/dev/null
	dmsetup version >/dev/null || { echo "no device mapper"; return 1; }
}

# pg_disk_table - from stdin, from now on
pg_disk_table()
{
	if dmsetup info "$PG_DISK" >/dev/null 2>&1; then
		dmsetup --noudevsync load "$PG_DISK" &&
			dmsetup --noudevsync resume --nolockfs "$PG_DISK"
	else
		dmsetup --noudevsync create "$PG_DISK" && dmsetup mknodes "$PG_DISK"
	fi
}

# pg_disk_good - the table without faults
pg_disk_good()
{
	echo "0 $PG_DISK_SECTORS linear $PG_DISK_LOOP 0"
}

# pg_disk_up FILESYSTEM DIRECTORY - and mounted there, or says why not; $PG_RUN has the image
pg_disk_up()
{
	command -v "mkfs.$1" >/dev/null || { echo "no mkfs.$1"; return 1; }
	# pin_guard.ko finds its functions by name, among those of all modules: with xfs.ko that
	# takes several times as long.
	pg_loaded "$1" || pg_undo modprobe -qr "$1"
	truncate -s "${PG_DISK_MB}M" "$PG_RUN/image" && mkdir -p "$2" &&
		PG_DISK_LOOP=$(losetup --show -f "$PG_RUN/image") &&
		pg_disk_good | pg_disk_table && "mkfs.$1" -q "/dev/mapper/$PG_DISK" &&
		mount -t "$1" "/dev/mapper/$PG_DISK" "$2"
}

# pg_disk_down - fails if it is in use
pg_disk_down()
{
	if dmsetup info "$PG_DISK" >/dev/null 2>&1; then
		dmsetup --noudevsync resume "$PG_DISK" 2>/dev/null
		while grep -q "^/dev/mapper/$PG_DISK " /proc/mounts; do
			umount "/dev/mapper/$PG_DISK" || return
		done
		dmsetup --noudevsync remove --retry "$PG_DISK" || return
	fi
	[ -z "$PG_DISK_LOOP" ] || losetup -d "$PG_DISK_LOOP"
	rm -f "$PG_RUN/image"
	PG_DISK_LOOP=
}

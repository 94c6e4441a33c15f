#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Errors in the middle of O_DIRECT reads and writes: sectors that fail, a device that is gone, a
# forced shutdown, all with the requests in flight; on the disk itself and over NFS. The caller
# is told once, no other byte changes, every pin is released, and the file system unmounts:
# without the module, and the same with it. io_error.c says what is checked of each request.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=disk.sh
. "$PG_HERE/disk.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"

FILESYSTEMS=(xfs ext4)
VERSIONS=(4.2 3)
FAIL_BIO=/sys/kernel/debug/fail_make_request
LOCAL=("good device read" "good device, errors awaited" "bad sectors read" "bad sectors write"
       "bad sectors, in flight read" "device gone, in flight read" "device gone, and back")
BIO="every third bio fails read"
XFS=("flakey error_reads read" "flakey error_writes write" "flakey drop_writes write"
     "$BIO" "shutdown, in flight read" "shutdown, and back"
     "shutdown -f, in flight read" "shutdown -f, and back" "backing file gone, in flight read")
NFS=("bad sectors read" "bad sectors, in flight read" "windows are closed")
NFS_GONE=("flakey error_reads, in flight read" "device gone, in flight read"
	  "device gone, and back" "shutdown, in flight read" "shutdown, and back")
NAMES=()	# in a round, in order
for fs in "${FILESYSTEMS[@]}"; do
	NAMES+=("${LOCAL[@]/#/$fs }")
	if [ "$fs" = xfs ]; then
		for v in "${VERSIONS[@]}"; do
			[ "$v" != "${VERSIONS[0]}" ] || NAMES+=("${NFS_GONE[@]/#/nfs $v }")
			NAMES+=("${NFS[@]/#/nfs $v }")
		done
		NAMES+=("${XFS[@]/#/$fs }")
	fi
	NAMES+=("$fs unmounts")
done

pg_isolate "$@"
pg_start "${NAMES[@]/#/without module: }" "pin_guard and pin_guard_dma load" \
	"${NAMES[@]/#/with module: }" "pin_guard_dma and pin_guard unload"
for m in pin_guard pin_guard_dma; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
[ -d "$FAIL_BIO" ] || pg_leave_out "no CONFIG_FAIL_MAKE_REQUEST" {without,with}" module: xfs $BIO"
pg_unload_all
pg_disk_tools >"$PG_TMP/why" || pg_skip_all "$(<"$PG_TMP/why")"
modprobe dm-flakey 2>/dev/null
pg_memory 32

# The server hides /run; the disk is exported by it.
SERVER=
pg_nfs_server >"$PG_TMP/why" || SERVER=$(<"$PG_TMP/why")
[ -z "$SERVER" ] || mount -t tmpfs tmpfs "$PG_RUN"
DISK=$PG_RUN/export/disk
FILE=$DISK/file
pg_undo disk_down
health_begin

RESUME="dmsetup --noudevsync resume --nolockfs $PG_DISK"
SUSPEND="dmsetup --noudevsync suspend --nolockfs $PG_DISK"
# It may wait for the log, and that for the device.
SHUTDOWN="xfs_io -x -c 'shutdown' $DISK & sleep 0.3; $RESUME; wait"
# switch TABLE - the command for it, which also ends a suspension
switch()
{
	echo "dmsetup --noudevsync load $PG_DISK $PG_TMP/$1 && $RESUME"
}

# bad TARGET ARGUMENT... - the good table but for the sectors $1 + $2 of the disk
bad()
{
	local end=$(($1 + $2))

	echo "0 $1 linear $PG_DISK_LOOP 0"
	echo "$1 $2 ${*:3}"
	echo "$end $((PG_DISK_SECTORS - end)) linear $PG_DISK_LOOP $end"
}

# tables - of all faults, in $PG_TMP; the file's bad part is at sector $1, $2 long
tables()
{
	local feature

	pg_disk_good >"$PG_TMP/good"
	echo "0 $PG_DISK_SECTORS error" >"$PG_TMP/gone"
	bad "$1" "$2" error >"$PG_TMP/error"
	for feature in error_reads error_writes drop_writes; do
		bad "$1" "$2" flakey "$PG_DISK_LOOP" "$1" 0 1 1 "$feature" >"$PG_TMP/$feature"
	done
}

# disk_up FILESYSTEM - with the file
disk_up()
{
	local where

	pg_disk_up "$1" "$DISK" || return
	where=$("$PG_HERE/io_error" -m "$FILE") || { echo "$where"; return 1; }
	sync -f "$DISK"
	# shellcheck disable=SC2086 # sector, sectors, extents
	tables $where
}

# disk_down - unmounts it, and its devices go; also at the end
disk_down()
{
	[ -n "$SERVER" ] || exportfs -u "$PG_NFS_CLIENT:$DISK" 2>/dev/null
	pg_wait 20 pg_disk_down
}

# again - mounts the disk once more, on the good table; it must come up with the file
again()
{
	pg_wait 20 umount "$DISK" 2>/dev/null && pg_disk_table <"$PG_TMP/good" &&
		mount -t "$FS" "/dev/mapper/$PG_DISK" "$DISK" && [ -s "$FILE" ]
}

# io_error ARGUMENT... - and then no pin is left
io_error()
{
	"$PG_HERE/io_error" "$@" || return
	pg_wait 20 pg_pins_are_back && return
	echo "$(pg_pins) pins held, $PG_PINS before"
	return 1
}

# fails COMMAND... - as it should
fails()
{
	! "$@" >"$PG_TMP/output" && grep -q 'expected EIO, came' "$PG_TMP/output"
}

# t NAME OPTION... - a run of io_error on $FILE, or a skip if $WHY says so
t()
{
	local name="$ROUND module: $FS $1" what="read"

	shift
	[[ " $* " != *" -w "* ]] || what="write"
	if [ -n "$WHY" ]; then
		pg_skip "$name $what" "$WHY"
	else
		pg_run "$name $what" io_error -n "$name" "$@" "$FILE"
	fi
}

# c NAME COMMAND...
c()
{
	local name="$ROUND module: $FS $1"

	if [ -n "$WHY" ]; then
		pg_skip "$name" "$WHY"
	else
		pg_check "$name" "${@:2}"
	fi
}

# local_faults - the tests of LOCAL
local_faults()
{
	t "good device" -e none "${DMA[@]}"
	! pg_wanted "$ROUND module: $FS good device, errors awaited" ||
		c "good device, errors awaited" fails "$PG_HERE/io_error" "$FILE"
	t "bad sectors" -b "$(switch error)" -a "$(switch good)"
	t "bad sectors" -b "$(switch error)" -a "$(switch good)" -w
	# Of reads: a write to a part of a block may keep the others out until it is done.
	t "bad sectors, in flight" -b "$SUSPEND" -d "$(switch error)" -a "$(switch good)" \
		"${DMA[@]}"
	t "device gone, in flight" -e all -A -b "$SUSPEND" -d "$(switch gone)" "${DMA[@]}"
	c "device gone, and back" again
}

# xfs_faults - the tests of XFS
xfs_faults()
{
	local make_it_fail

	t "flakey error_reads" -b "$(switch error_reads)" -a "$(switch good)"
	t "flakey error_writes" -w -b "$(switch error_writes)" -a "$(switch good)"
	t "flakey drop_writes" -w -e drop -b "$(switch drop_writes)" -a "$(switch good)"
	if pg_wanted "$ROUND module: $FS $BIO"; then
		make_it_fail=$(dmsetup info -c --noheadings --separator : -o major,minor "$PG_DISK")
		make_it_fail=/sys/dev/block/$make_it_fail/make-it-fail
		pg_set $FAIL_BIO/probability 100
		pg_set $FAIL_BIO/interval 3
		pg_set $FAIL_BIO/times -1
		pg_set $FAIL_BIO/verbose 0	# a stack for each else
		t "${BIO% read}" -e some -b "sync -f $DISK && echo 1 >$make_it_fail" \
			-a "echo 0 >$make_it_fail"
	fi
	shutdown shutdown
	shutdown "shutdown -f"
	# The last, for the image does not come back.
	t "backing file gone, in flight" -e all -A -b "$SUSPEND" \
		-d "truncate -s 0 $PG_RUN/image; $RESUME"
}

# shutdown COMMAND OPTION... - of xfs_io; two tests
shutdown()
{
	t "$1, in flight" -e either -A -b "$SUSPEND" \
		-d "${SHUTDOWN/shutdown/$1}" "${DMA[@]}" "${@:2}"
	c "$1, and back" again
}

# nfs_up VERSION, nfs_down VERSION - the disk, for a client
nfs_up()
{
	pg_nfs_export disk && pg_nfs_mount "$1" "$PG_RUN/mnt/$1" disk
}

nfs_down()
{
	# The server keeps the opens of a client that it could tell errors only.
	umount "$PG_RUN/mnt/$1" && exportfs -u "$PG_NFS_CLIENT:$DISK" &&
		echo "$DISK" >/proc/fs/nfsd/unlock_filesystem
}

nfs_again()
{
	local FS=xfs FILE=$DISK/file

	nfs_down "$1" && again && nfs_up "$1"
}

# drop FILE - the command after which a server has nothing of it in its cache: a page that a socket
# still refers to is not dropped at once
drop()
{
	local size cached

	size=$(stat -c %s "$1")
	cached="xfs_io -r -c 'fadvise -d 0 0' -c 'mmap -r 0 $size' -c mincore $1"
	echo "for _ in \$(seq 100); do c=\$($cached) || exit; [ -n \"\$c\" ] || break; sleep 0.1; done &&
		[ -z \"\$c\" ]"
}

# nfs_faults VERSION - the tests of NFS, over the first version those of NFS_GONE, too
nfs_faults()
{
	local opened=0 FS="nfs $1" FILE=$PG_RUN/mnt/$1/file WHY=$WHY
	local drop=

	pg_any "$ROUND module: $FS *" || return
	: "${WHY:=$SERVER}"
	if [ -z "$WHY" ]; then
		nfs_up "$1" || WHY="cannot mount NFS v$1"
		opened=$(pg_counter windows_opened 2>/dev/null)
		drop=$(drop "$DISK/file")
	fi
	if [ "$1" = "${VERSIONS[0]}" ]; then
		t "flakey error_reads, in flight" -s -b "$drop && $SUSPEND" \
			-d "$(switch error_reads)" -a "$(switch good)" "${CONTROL[@]}"
		t "device gone, in flight" -s -e all -A -b "$drop && $SUSPEND" -d "$(switch gone)"
		c "device gone, and back" nfs_again "$1"
		t "shutdown, in flight" -s -e either -A -b "$drop && $SUSPEND" -d "$SHUTDOWN" \
			"${CONTROL[@]}"
		c "shutdown, and back" nfs_again "$1"
	fi
	t "bad sectors" -s -b "$drop && $(switch error)" -a "$(switch good)" "${CONTROL[@]}"
	t "bad sectors, in flight" -s -b "$drop && $SUSPEND" -d "$(switch error)" \
		-a "$(switch good)" "${CONTROL[@]}"
	c "windows are closed" windows_closed "$opened"
	[ -n "$WHY" ] || nfs_down "$1"
}

# windows_closed BEFORE - and there were some, if there can be
windows_closed()
{
	pg_loaded pin_guard || return 0
	[ "$(pg_counter windows_opened)" -gt "$1" ] && pg_wait 10 test "$(pg_counter windows_open)" = 0
}

# round - with $DMA and $CONTROL, as options of io_error
round()
{
	local v

	for FS in "${FILESYSTEMS[@]}"; do
		WHY=
		pg_any "$ROUND module: $FS *" || { [ "$FS" = xfs ] && pg_any "$ROUND module: nfs *"; } ||
			continue
		disk_up "$FS" >"$PG_TMP/why" 2>&1 || WHY="no $FS: $(<"$PG_TMP/why")"
		local_faults
		if [ "$FS" = xfs ]; then
			for v in "${VERSIONS[@]}"; do
				nfs_faults "$v"
			done
			xfs_faults
		fi
		c "unmounts" disk_down
		[ -z "$WHY" ] || disk_down
	done
}

ROUND=without CONTROL=(-C) DMA=()
round
ROUND=with CONTROL=() DMA=(-D /dev/pin_guard_dma)
pg_check "pin_guard and pin_guard_dma load" eval "pg_load pin_guard && pg_load pin_guard_dma"
round
pg_check "pin_guard_dma and pin_guard unload" pg_unload pin_guard_dma pin_guard

health_end
pg_finish

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Reads with O_DIRECT over Ceph, while the process forks: without pin_guard.ko they are lost, with
# it they are not; whatever happens to the cluster meanwhile. On a cluster of our own (see
# cluster.sh), or, without the trouble, on mount points as arguments
# (KSELFTEST_CEPH_SH_ARGS="/mnt/a /mnt/b").

# The cluster and the link are our own.
unset NETIF

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"
# shellcheck source=reads.sh
. "$PG_HERE/reads.sh"
# shellcheck source=inflight.sh
. "$PG_HERE/inflight.sh"
# shellcheck source=cluster.sh
. "$PG_HERE/cluster.sh"

FULL+=(soak)
# What goes another way through the client: by the options of its mount, or by the file (see way()).
declare -A OPTIONS=(
	[ceph]=""
	[striped]=""
	[crc]=ms_mode=crc
	[secure]=ms_mode=secure
	[sparseread]=sparseread
	[rsize]=rsize=65536
	[holes]=sparseread
	[eof]=""
	[snapshot]=""
	[shared]=""
)
WAYS=(striped crc secure sparseread rsize holes eof snapshot shared)

# way_tests WAY - sets TESTS
way_tests()
{
	case $1 in
	ceph) TESTS=("${FULL[@]}") ;;
	holes) TESTS=("forkscrew --demo --sparse") ;;
	eof) TESTS=("forkscrew --demo --eof") ;;
	snapshot | shared) TESTS=("forkscrew --demo") ;;
	*) TESTS=("${SHORT[@]}") ;;
	esac
}

MNT=$PG_RUN/mnt/fault
SCENARIOS=(cut stopped killed moved failover umount_f kill_pread kill_libaio blocklisted)
declare -A WHAT=(
	[cut]="network cut and mended"
	[stopped]="OSD stopped and continued"
	[killed]="OSD killed and started again"
	[moved]="OSD down and out, its reads go to another"
	[failover]="MDS failover"
	[umount_f]="umount -f"
	[kill_pread]="SIGKILL with the OSD stopped, pread"
	[kill_libaio]="SIGKILL with the OSD stopped, libaio"
	[blocklisted]="client blocklisted"
)
RELOADS=("ceph.ko comes after pin_guard.ko" "ceph.ko is loaded again")
RBD="rbd keeps the data without pin_guard.ko"
ENCRYPTED="an encrypted file keeps its data without pin_guard.ko"

pg_isolate "$@"
if [ $# -eq 0 ]; then
	for WAY in ceph "${WAYS[@]}"; do
		NAMES=("$WAY")
		way_tests "$WAY"
		list
	done
	TESTS=("${FULL[@]}")
	scenarios_list
	ALL+=("${RELOADS[@]}" "$RBD" "$ENCRYPTED")
else
	MOUNTS=("$@") NAMES=("$@") TESTS=("${FULL[@]}")
	list
fi
pg_start "${ALL[@]}"
modinfo rbd >/dev/null 2>&1 || pg_loaded rbd || pg_leave_out "no CONFIG_BLK_DEV_RBD" "$RBD"
grep -q ' fscrypt_ioctl_add_key$' /proc/kallsyms ||
	pg_leave_out "no CONFIG_FS_ENCRYPTION" "$ENCRYPTED"
pg_unload_all
pg_memory 24
health_begin
DELAY=$(pg_delay 150)ms

# stripe DIRECTORY - some objects for each read
stripe()
{
	mkdir "$1" && python3 - "$1" <<-END
		import os, sys
		os.setxattr(sys.argv[1], "ceph.dir.layout",
		            b"stripe_unit=65536 stripe_count=4 object_size=262144")
	END
}

# snapshot DIRECTORY - of a file that has other content since
snapshot()
{
	mkdir "$1" && "$PG_HERE/forkscrew" --fill "$1/forkscrew" && mkdir "$1/.snap/before" &&
		head -c 1M /dev/zero | dd of="$1/forkscrew" bs=1M conv=notrunc,fsync status=none
}

# share FILE DIRECTORY - another client, at DIRECTORY, has the file open for writing: no client
# may cache it
share()
{
	"$PG_HERE/forkscrew" --fill "$1" && ceph_mount "$2" noshare && exec {OTHER}<>"$2/${1##*/}" &&
		pg_undo eval "exec $OTHER>&-"
}

# way NAME - a mount for it
way()
{
	local dir=$PG_RUN/mnt/$1

	PREPARED=
	ceph_mount "$dir" "${OPTIONS[$1]}" || return
	case $1 in
	striped | holes) dir+=/$1 && stripe "$dir" ;;
	snapshot) snapshot "$dir/snapshot" && dir+=/snapshot/.snap/before PREPARED=1 ;;
	shared) share "$dir/forkscrew" "$PG_RUN/mnt/other" && PREPARED=1 ;;
	esac || return
	MOUNTS=("$dir")
}

# way_failed REASON - all tests of $NAMES
way_failed()
{
	local ALL=() name

	list
	for name in "${ALL[@]}"; do
		pg_result "$name" "$KSFT_FAIL" "cannot prepare it: $1"
	done
}

#
# The scenarios
#

# said COMMAND... - of the cluster; what it says is told
said()
{
	"$@" >"$PG_TMP/said" && return
	say "$(<"$PG_TMP/said")"
	return 1
}

mon()
{
	said ceph_mon "$1"
}

osds()
{
	local i

	for i in 0 1; do
		[ ! -e "$CEPH/osd.$i.pid" ] || kill "-$1" "$(<"$CEPH/osd.$i.pid")" || return
	done
}

osds_stop()
{
	pg_undo osds CONT
	osds STOP && await osds_stand
}

# A thread that does not know of the signal yet would answer one more read.
osds_stand()
{
	local i

	for i in 0 1; do
		[ ! -e "$CEPH/osd.$i.pid" ] || ! cat "/proc/$(<"$CEPH/osd.$i.pid")"/task/*/status |
			grep '^State:' | grep -qv stopped || return
	done
}

# Once, so that nothing but the data is asked for later.
ready()
{
	ceph_mount "$MNT" && reads_open "$MNT" "$@" && ask submit submitted && ask wait ended
}

cut()
{
	ready && net_cut && ask submit submitted && hold && sleep 1 && hold || return
	net_mend && reads_end right && read_again
}

stopped()
{
	ready && osds_stop && ask submit submitted && hold && sleep 1 && hold || return
	osds CONT && reads_end right && read_again
}

osds_are_gone()
{
	! pgrep --ns $$ --nslist mnt -x ceph-osd
}

killed()
{
	local i

	ready && osds_stop && ask submit submitted && hold && osds KILL || return
	await osds_are_gone && hold || return
	for i in 0 1; do
		said ceph_osd_start $i || return
	done
	reads_end right && read_again
}

# targets - the OSDs that the requests of our mount wait for
targets()
{
	cat /sys/kernel/debug/ceph/"$CEPH_FSID".client*/osdc 2>/dev/null |
		awk '$2 ~ /^osd[0-9]/ { print $2 }' | sort -u | xargs
}

targets_are()
{
	[ "$(targets)" = "$1" ]
}

moved()
{
	local from to

	ready && osds_stop && ask submit submitted && hold || return
	from=$(targets)
	case $from in
	osd0) to=osd1 ;;
	osd1) to=osd0 ;;
	*) say "expected reads from one OSD, came $from"; return 1 ;;
	esac
	kill -CONT "$(<"$CEPH/osd.${to#osd}.pid")"
	pg_undo ceph_mon '{"prefix":"osd in","ids":["'"${from#osd}"'"]}'
	mon '{"prefix":"osd down","ids":["'"${from#osd}"'"]}' &&
		mon '{"prefix":"osd out","ids":["'"${from#osd}"'"]}' || return
	# It is asked once more, and waits for what the other has.
	await targets_are $to || { say "expected reads from $to, came $(targets)"; return 1; }
	hold && osds CONT && reads_end right && read_again
}

failover()
{
	local active

	if [ ! -e "$CEPH/mds.b.pid" ]; then
		said ceph_daemon ceph-mds -i b || return
	fi
	mon '{"prefix":"mds stat","await":"up:standby"}' && ready && net_cut &&
		ask submit submitted && hold && mon '{"prefix":"mds stat"}' || return
	case $CEPH_SAID in
	*0=a=up:active*) active=a ;;
	*) active=b ;;
	esac
	mon '{"prefix":"mds fail","role_or_gid":"'$active'"}' &&
		mon '{"prefix":"mds stat","await":"0='"$(tr ab ba <<<$active)"'=up:re"}' || return
	hold && net_mend && reads_end right && read_again
}

umount_f()
{
	ready && osds_stop && ask submit submitted && hold || return
	timeout 20 umount -f "$MNT" 2>/dev/null
	outcome "umount says $?" || return
	reads_end fails EIO && await no_window_is_open
}

# What is not killable without the module (aio waits in exit) may be not with it.
kill9()
{
	local gone="not before the OSD is back"

	ready -i "$1" && osds_stop && ask submit submitted && hold || return
	kill -9 "$READS_PID"
	LIMIT=8 await is_gone "$READS_PID" && gone="at once"
	say "is gone $gone"
	outcome "is gone $gone" || return
	[ "$1" != pread ] || [ "$gone" = "at once" ] || return
	osds CONT && await is_gone "$READS_PID" && await no_window_is_open || return
	fault "$READS" 0 "SIGKILL"
}

blocklisted()
{
	local instance

	ready && net_cut && ask submit submitted && hold || return
	instance=$(sed -n 's/^instance: [^ ]* ([0-9]*)//p' /sys/kernel/debug/ceph/"$CEPH_FSID".client*/status)
	mon '{"prefix":"osd blocklist","blocklistop":"add","addr":"'"$instance"'"}' && hold &&
		net_mend && reads_end fails ESHUTDOWN && await no_window_is_open
}

scenario()
{
	case $NAME in
	kill_*) kill9 "${NAME#*_}" ;;
	*) $NAME ;;
	esac
}

#
# ceph.ko under the module
#

# once - one read of each kind is kept
once()
{
	ceph_mount "$PG_RUN/mnt/again" && "$PG_HERE/forkscrew" --fill "$PG_RUN/mnt/again/forkscrew" &&
		netem delay "$DELAY" &&
		"$PG_HERE/forkscrew" --demo -j "$JOBS" --filled "$PG_RUN/mnt/again/forkscrew" |
		sed 's/^/# /'
	[ "${PIPESTATUS[0]}" = 0 ]
}

# reload NAME
reload()
{
	local mark=${#PG_UNDO[@]} rc

	pg_wanted "$1" || return 0
	# Again is under the module.
	[ "$1" = "${RELOADS[0]}" ] || pg_loaded pin_guard || pg_load pin_guard
	pg_wait 20 modprobe -r ceph && { pg_loaded pin_guard || pg_load pin_guard; } && modprobe ceph && once
	rc=$?
	netem off
	pg_cleanup "$mark"
	pg_result "$1" $rc
}

# rbd_device - /dev/rbd0
rbd_device()
{
	pg_loaded rbd || pg_undo modprobe -qr rbd
	modprobe rbd && ceph_mon '{"prefix":"osd pool create","pool":"rbd","pg_num":8}' &&
		"${NET_AT[@]}" rbd -c "$CEPH/conf" create --size 64M --image-feature layering disk &&
		echo "$REMOTE_V4:6789 name=admin,secret=$CEPH_KEY rbd disk" >/sys/bus/rbd/add_single_major &&
		pg_undo pg_write 0 /sys/bus/rbd/remove_single_major &&
		pg_wait 10 test -b /dev/rbd0
}

# The block layer pins.
rbd_keeps()
{
	local dir=$PG_RUN/mnt/rbd

	rbd_device && mkfs.ext4 -q /dev/rbd0 && mkdir -p "$dir" && mount /dev/rbd0 "$dir" &&
		pg_undo umount "$dir" && "$PG_HERE/forkscrew" --fill "$dir/forkscrew" &&
		netem delay "$DELAY" &&
		"$PG_HERE/forkscrew" --demo -j "$JOBS" --filled "$dir/forkscrew"
}

rbd_result()
{
	local mark=${#PG_UNDO[@]} tool

	pg_wanted "$RBD" || return 0
	for tool in rbd mkfs.ext4; do
		command -v $tool >/dev/null || { pg_skip "$RBD" "no $tool"; return; }
	done
	pg_run "$RBD" rbd_keeps
	netem off
	pg_cleanup "$mark"
}

# encrypt DIRECTORY - a new one
encrypt()
{
	mkdir "$1" && python3 - "$1" <<-END
		import fcntl, os, struct, sys

		FS_IOC_ADD_ENCRYPTION_KEY = 0xc0506617
		FS_IOC_SET_ENCRYPTION_POLICY = 0x800c6613
		key = os.urandom(64)
		directory = os.open(sys.argv[1], os.O_RDONLY)
		# By its identifier (type 2), which comes back
		arg = bytearray(struct.pack("=II32xII32x", 2, 0, len(key), 0) + key)
		fcntl.ioctl(directory, FS_IOC_ADD_ENCRYPTION_KEY, arg)
		# Version 2, AES-256-XTS for content, AES-256-CTS for names padded to 32
		fcntl.ioctl(directory, FS_IOC_SET_ENCRYPTION_POLICY,
		            struct.pack("=BBBB4x16s", 2, 1, 4, 3, bytes(arg[8:24])))
	END
}

# What is decrypted is copied.
encrypted_keeps()
{
	local dir=$PG_RUN/mnt/encrypted

	ceph_mount "$dir" || return
	encrypt "$dir/encrypted" && "$PG_HERE/forkscrew" --fill "$dir/encrypted/forkscrew" &&
		netem delay "$DELAY" &&
		"$PG_HERE/forkscrew" --demo -j "$JOBS" --filled "$dir/encrypted/forkscrew"
}

encrypted_result()
{
	local mark=${#PG_UNDO[@]}

	pg_run "$ENCRYPTED" encrypted_keeps
	netem off
	pg_cleanup "$mark"
}

# cluster - as much of one as the tests ask for
TROUBLE=
cluster()
{
	local name store=(memstore 1)

	for name in "${SCENARIOS[@]}"; do
		! pg_any "* ${WHAT[$name]}" || TROUBLE=1 store=(bluestore 2)
	done
	net_up veth && ceph_cluster "${store[@]}" || return
	ktap_print_msg "a cluster with ${store[0]}: $SECONDS s"
}

if [ $# -gt 0 ]; then
	mounts
elif cluster >"$PG_TMP/why"; then
	MARK=${#PG_UNDO[@]}
	for WAY in ceph "${WAYS[@]}"; do
		NAMES=("$WAY")
		way_tests "$WAY"
		wanted || continue
		if way "$WAY" >"$PG_TMP/why" 2>&1; then
			mounts
		else
			way_failed "$(tail -n 1 "$PG_TMP/why")"
		fi
		pg_cleanup "$MARK"
	done
	[ -z "$TROUBLE" ] || scenarios
	rbd_result
	encrypted_result
	for NAME in "${RELOADS[@]}"; do
		reload "$NAME"
	done
	pg_unload pin_guard
else
	for NAME in "${ALL[@]}"; do
		pg_skip "$NAME" "$(tail -n 1 "$PG_TMP/why")"
	done
fi

health_end
pg_finish

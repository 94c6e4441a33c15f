#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the test scripts, after lib.sh and net.sh: a Ceph cluster of our own, at the other end
# of the link that is up, in a directory that goes away with us. One monitor, one metadata server
# (with a key for a second, b), and as many OSDs as asked for.
# shellcheck disable=SC2034,SC2154 # shared with the scripts and net.sh

CEPH=$PG_RUN/ceph
CEPH_FSID=
CEPH_KEY=
CEPH_SAID=	# by the monitor
CEPH_TO=
CEPH_FROM=

# ceph_conf STORE - what differs from the defaults
ceph_conf()
{
	cat <<-END
		[global]
		fsid = $CEPH_FSID
		mon_host = [v2:$REMOTE_V4:3300,v1:$REMOTE_V4:6789]
		public_addr = $REMOTE_V4
		keyring = $CEPH/keyring
		mon_data = $CEPH/mon
		osd_data = $CEPH/\$name
		mds_data = $CEPH
		run_dir = $CEPH
		pid_file = $CEPH/\$name.pid
		admin_socket =
		log_file = $CEPH/\$name.log
		mon_cluster_log_file = $CEPH/cluster.log
		# Debian's default is relative.
		osd_class_dir = $(find /usr/lib /usr/lib64 -maxdepth 2 -name rados-classes 2>/dev/null | head -n 1)
		# One copy of each object is enough, and no manager is there to choose the numbers.
		osd_pool_default_size = 1
		mon_allow_pool_size_one = true
		osd_pool_default_pg_num = 8
		osd_pool_default_pg_autoscale_mode = off
		osd_crush_chooseleaf_type = 0
		osd_objectstore = $1
		memstore_device_bytes = 1G
		bluestore_block_size = 1G
		# The disk is a tmpfs of ours.
		mon_data_avail_crit = 1
		# Without KVM everything may be late.
		osd_heartbeat_grace = 300
		mds_beacon_grace = 300
		# For the sake of a machine of 3 GiB.
		osd_memory_target = 939524096
		bluestore_cache_size = 32M
		ms_async_op_threads = 1
	END
}

# ceph_keyring OSDS - one key for all, who are all ourselves
ceph_keyring()
{
	local name

	for name in mon. client.admin mds.a mds.b $(seq -f osd.%g 0 $(($1 - 1))); do
		printf '[%s]\n\tkey = %s\n' "$name" "$CEPH_KEY"
		printf '\tcaps %s = "allow *"\n' mon osd mds
	done
}

# ceph_daemon COMMAND... - at the other end
ceph_daemon()
{
	"${NET_AT[@]}" "$@" -c "$CEPH/conf" >>"$CEPH/out" 2>&1 ||
		{ echo "$1: $(tail -n 1 "$CEPH/out")"; return 1; }
}

# ceph_mon JSON - the monitor's errno is the status, and $CEPH_SAID what it has said; or says why not
ceph_mon()
{
	local code

	echo "$1" >&"$CEPH_TO"
	if ! read -r -t 180 code CEPH_SAID <&"$CEPH_FROM"; then
		echo "$1: the monitor does not answer"
		return 1
	fi
	[ "$code" = 0 ] || echo "$1: errno $code: $CEPH_SAID"
	return "$code"
}

ceph_osd_start()
{
	ceph_daemon ceph-osd -i "$1"
}

# ceph_osd_make N
ceph_osd_make()
{
	local uuid

	read -r uuid </proc/sys/kernel/random/uuid
	mkdir "$CEPH/osd.$1" &&
		ceph_mon '{"prefix":"osd new","uuid":"'"$uuid"'"}' &&
		ceph_daemon ceph-osd -i "$1" --mkfs --osd-uuid "$uuid" --no-mon-config &&
		ceph_osd_start "$1"
}

# ceph_cluster STORE OSDS - or says why not; not for a subshell, or what it starts is not undone
ceph_cluster()
{
	local store=$1 osds=$2 tool i

	for tool in ceph-mon ceph-osd ceph-mds ceph-authtool monmaptool python3; do
		command -v $tool >/dev/null || { echo "no $tool"; return 1; }
	done
	python3 -c 'import rados' 2>/dev/null || { echo "no python3-rados"; return 1; }
	pg_loaded ceph || pg_undo modprobe -qr ceph
	modprobe ceph || { echo "no ceph.ko"; return 1; }
	mkdir -p "$CEPH" && pg_mount tmpfs "$CEPH" || return
	pg_undo ceph_end
	read -r CEPH_FSID </proc/sys/kernel/random/uuid
	ceph_conf "$store" >"$CEPH/conf"
	CEPH_KEY=$(ceph-authtool --gen-print-key)
	ceph_keyring "$osds" >"$CEPH/keyring"
	if ! monmaptool --create --fsid "$CEPH_FSID" --addv a "[v2:$REMOTE_V4:3300,v1:$REMOTE_V4:6789]" \
		"$CEPH/monmap" >>"$CEPH/out" 2>&1; then
		tail -n 1 "$CEPH/out"
		return 1
	fi
	# It takes all keys of that keyring.
	ceph_daemon ceph-mon -i a --mkfs --monmap "$CEPH/monmap" --keyring "$CEPH/keyring" &&
		ceph_daemon ceph-mon -i a || return
	mkfifo "$CEPH/to" "$CEPH/from" && exec {CEPH_TO}<>"$CEPH/to" {CEPH_FROM}<>"$CEPH/from" || return
	"${NET_AT[@]}" "$PG_HERE/ceph_mon.py" "$CEPH/conf" <"$CEPH/to" >"$CEPH/from" 2>>"$CEPH/out" &
	pg_undo kill -9 $!
	for ((i = 0; i < osds; i++)); do
		ceph_osd_make "$i" || return
	done
	ceph_mon '{"prefix":"osd pool create","pool":"meta","pg_num":8}' &&
		ceph_mon '{"prefix":"osd pool create","pool":"data","pg_num":8}' &&
		ceph_mon '{"prefix":"fs new","fs_name":"test","metadata":"meta","data":"data"}' &&
		ceph_daemon ceph-mds -i a && ceph_mon '{"prefix":"mds stat","await":"up:active"}'
}

ceph_end()
{
	exec {CEPH_TO}>&- {CEPH_FROM}<&-
	pkill -KILL --ns $$ --nslist mnt -x 'ceph-(mon|osd|mds)'
}

# ceph_mount DIRECTORY [OPTION,...] - as mount.ceph would, which wants a file in /etc
ceph_mount()
{
	local port=6789

	[[ ${2:-} != *ms_mode=* ]] || port=3300
	mkdir -p "$1" &&
		mount -i -t ceph "admin@$CEPH_FSID.test=/" "$1" \
			-o "secret=$CEPH_KEY,mon_addr=$REMOTE_V4:$port${2:+,$2}" &&
		pg_undo umount -l "$1"
}

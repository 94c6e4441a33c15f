#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the test scripts, after lib.sh: an NFS server of our own, inside pg_isolate, on lo or
# in another network namespace, and what delays the way to it.
# shellcheck disable=SC2034,SC2154 # shared with the scripts and lib.sh

PG_NFS_SERVER=127.0.0.1	# the addresses
PG_NFS_CLIENT=127.0.0.1
PG_NFS_AT=()		# a command that gets into the server's network namespace

# pg_netem DELAY - on everything that goes over lo, both ways
pg_netem()
{
	tc qdisc replace dev lo root netem delay "$1" limit 100000
}

pg_netem_off()
{
	tc qdisc del dev lo root 2>/dev/null
	return 0
}

# pg_nfs_server - exports $PG_RUN/export, or says why not; hides /run; not for a subshell, or
# what it starts is not undone
pg_nfs_server()
{
	local tool

	for tool in rpc.nfsd rpc.mountd exportfs rpcbind tc mount.nfs; do
		command -v "$tool" >/dev/null || { echo "no $tool"; return 1; }
	done
	"${PG_NFS_AT[@]}" ip link set lo up || return 1
	# All state of the daemons is ours: the machine may have a server of its own.
	pg_mount tmpfs /run && pg_mount tmpfs /var/lib/nfs || return 1
	mkdir -p /run/rpcbind /run/rpc_pipefs /var/lib/nfs/{sm,sm.bak,nfsdcld} "$PG_RUN"/{export,mnt}
	touch /var/lib/nfs/{etab,rmtab,state}
	pg_undo pkill --ns $$ --nslist mnt -x 'rpcbind|rpc.mountd|nfsdcld'
	"${PG_NFS_AT[@]}" rpcbind -w >/dev/null 2>&1 || "${PG_NFS_AT[@]}" rpcbind ||
		{ echo "rpcbind does not start"; return 1; }
	modprobe nfsd || { echo "no nfsd.ko"; return 1; }
	pg_mount nfsd /proc/fs/nfsd "${PG_NFS_AT[@]}" && pg_mount tmpfs "$PG_RUN/export" || return 1
	[ "$(</proc/fs/nfsd/threads)" = 0 ] || { echo "there is an NFS server already"; return 1; }
	chmod 777 "$PG_RUN/export"
	# A server that has just started makes the first open wait for 90 s, or 10 s at least;
	# one that can ask nfsdcld, which knows of no client to wait for, not at all.
	pg_mount rpc_pipefs /run/rpc_pipefs "${PG_NFS_AT[@]}" &&
		"${PG_NFS_AT[@]}" nfsdcld -p /run/rpc_pipefs 2>/dev/null
	echo 10 >/proc/fs/nfsd/nfsv4leasetime
	echo 10 >/proc/fs/nfsd/nfsv4gracetime
	"${PG_NFS_AT[@]}" exportfs -o rw,no_root_squash,insecure,async,no_subtree_check,fsid=0 \
		"$PG_NFS_CLIENT:$PG_RUN/export" || return 1
	"${PG_NFS_AT[@]}" rpc.nfsd --no-udp 8 2>/dev/null ||
		{ echo "rpc.nfsd does not start"; return 1; }
	pg_undo "${PG_NFS_AT[@]}" rpc.nfsd 0
	"${PG_NFS_AT[@]}" rpc.mountd --no-udp >/dev/null 2>&1 ||
		{ echo "rpc.mountd does not start"; return 1; }
}

# pg_nfs_export DIRECTORY - of $PG_RUN/export, which is another file system
pg_nfs_export()
{
	"${PG_NFS_AT[@]}" exportfs -o rw,no_root_squash,insecure,async,no_subtree_check,fsid=1 \
		"$PG_NFS_CLIENT:$PG_RUN/export/$1"
}

# pg_nfs_mount VERSION DIRECTORY [EXPORTED] [OPTION,...]
pg_nfs_mount()
{
	local options=proto=tcp${4:+,$4}

	mkdir -p "$2"
	if [ "$1" = 3 ]; then
		mount -t nfs -o "vers=3,nolock,$options" \
			"$PG_NFS_SERVER:$PG_RUN/export${3:+/$3}" "$2"
	else
		mount -t nfs -o "vers=$1,$options" "$PG_NFS_SERVER:/${3:-}" "$2"
	fi && pg_undo umount -l "$2"
}

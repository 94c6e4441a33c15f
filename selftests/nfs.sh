#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Reads with O_DIRECT over NFS, while the process forks: without pin_guard.ko they are lost,
# with it they are not. Mounts its own servers, on lo and at the other end of NICs (see net.sh),
# or takes mount points as arguments (KSELFTEST_NFS_SH_ARGS="/mnt/a /mnt/b").

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"
# shellcheck source=reads.sh
. "$PG_HERE/reads.sh"

LINKS=()
if [ $# -eq 0 ]; then
	net_init "$@"
	# Of our own veth there is nothing to be seen that lo has not.
	for link in $(net_links); do
		[ -z "${NETIF:-}" ] && [ "$link" = veth ] || LINKS+=("$link")
	done
else
	pg_isolate "$@"
fi
MOUNTS=("$@")
NAMES=("$@")

# mounts_of LINK - the names of its mounts, and the tests on each
mounts_of()
{
	case $1 in
	lo)
		NAMES=(v4.2 v3)
		TESTS=("${FULL[@]}")
		;;
	*)
		NAMES=("$1 v4.2")
		TESTS=("${SHORT[@]}")
		;;
	esac
}

[ $# -eq 0 ] || list
for link in "${LINKS[@]}"; do
	mounts_of "$link"
	list
done
pg_start "${ALL[@]}"
net_leave_out
pg_unload_all
pg_memory 24
health_begin
DELAY=$(pg_delay 150)ms

# over LINK - from servers of ours; says why not
over()
{
	local v

	MOUNTS=()
	if [ -n "${NETIF:-}" ] && [ "$REMOTE_TYPE" = ssh ]; then
		echo "no server of ours behind ssh; fix: KSELFTEST_NFS_SH_ARGS=a mount over $NETIF"
		return 1
	fi
	net_up "$1" || return
	[ -n "$REMOTE_V4" ] || { echo "no IPv4"; return 1; }
	PG_NFS_SERVER=$REMOTE_V4 PG_NFS_CLIENT=$LOCAL_V4 PG_NFS_AT=("${NET_AT[@]}")
	pg_nfs_server || return
	for v in "${NAMES[@]##*v}"; do
		pg_nfs_mount "$v" "$PG_RUN/mnt/$v" || { echo "cannot mount NFS v$v"; return 1; }
		MOUNTS+=("$PG_RUN/mnt/$v")
	done
}

[ $# -eq 0 ] || mounts
for link in "${LINKS[@]}"; do
	mounts_of "$link"
	wanted || continue
	if over "$link" >"$PG_TMP/why"; then
		mounts
	else
		skip control "$(<"$PG_TMP/why")"
		skip protected "$(<"$PG_TMP/why")"
	fi
	net_down
done

health_end
pg_finish

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Each allocation on the module's ways fails in turn: an errno that is documented or a right
# result comes of it, no byte is lost, no pin is left. Needs a kernel with fault injection.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"
# shellcheck source=net.sh
. "$PG_HERE/net.sh"

# Where kmem_cache_create() has no memory for a cache of ours, the kernel prints a stack. It calls
# that ENOMEM, or EINVAL where do_kmem_cache_create() (mm/slub.c) lacks it.
PG_EXPECTED='__kmem_cache_create_args\(pin_guard[^)]*\) failed with error -(12|22)'

net_init "$@"

DEBUG=/sys/kernel/debug
DMA=/dev/pin_guard_dma
FILE=$PG_RUN/mnt/faults/file	# over NFS v4.2
FILE3=$PG_RUN/mnt/faults3/file	# v3, which lets io_uring try at once

MEMORY=(small thp hugetlb file)
GROUPS_ALL=("fork control: dma" "fork control: nfs")
for m in "${MEMORY[@]}"; do
	GROUPS_ALL+=("fork dma $m")
done
for io in libaio libaio_readv; do
	GROUPS_ALL+=("fork nfs $io")
done
for io in pread preadv libaio libaio_readv io_uring io_uring_readv; do
	GROUPS_ALL+=("read nfs $io")
done
for op in fill sum; do
	for m in "${MEMORY[@]}"; do
		GROUPS_ALL+=("pin $op $m" "long-term pin $op $m")
	done
done
GROUPS_ALL+=("iterator readv" "iterator writev")
for mode in copy splice guard registered; do
	GROUPS_ALL+=("send tcp $mode" "send udp $mode")
done
GROUPS_ALL+=("send tcp-small guard" "send tcp-big guard" "send tcp-big registered"
	"send tcp-batch guard" "send tcp-batch registered" "send udp-batch guard" "send register")
GROUPS_ALL+=("load pin_guard: percpu_ref" "load pin_guard" "load pin_guard_dma" "load pin_guard_tx"
	"load nfs under pin_guard")

pg_start "${GROUPS_ALL[@]}" "the modules load" "the modules unload" "pin_guard loads after that" \
	"the modules unload in the end"
[ -w /proc/self/fail-nth ] || pg_skip_all "no fault injection in this kernel (CONFIG_FAULT_INJECTION)"
for m in failslab fail_page_alloc; do
	[ -w $DEBUG/$m/require-start ] ||
		pg_skip_all "no $m by caller (CONFIG_FAULT_INJECTION_STACKTRACE_FILTER)"
done
for m in pin_guard pin_guard_dma pin_guard_tx; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
pg_unload_all
pg_memory 24
health_begin

#
# Which allocations fail
#

# set_all NAME VALUE - of both kinds of fault
set_all()
{
	local kind

	for kind in failslab fail_page_alloc; do
		pg_set $DEBUG/$kind/"$1" "$2"
	done
}

set_all ignore-gfp-wait N
set_all verbose 0
set_all probability 0
set_all times -1
set_all stacktrace-depth 32
pg_set $DEBUG/fail_page_alloc/ignore-gfp-highmem N
pg_set $DEBUG/fail_page_alloc/min-order 0
set_all require-start 0
set_all require-end 0
# What is copied from and to the user is another matter.
[ ! -e $DEBUG/fail_usercopy ] || {
	pg_set $DEBUG/fail_usercopy/stacktrace-depth 32
	pg_set $DEBUG/fail_usercopy/require-end 0
}

# below SYMBOL|[MODULE] - those that this function, or the module, calls for
below()
{
	local start end kind

	read -r start end < <(awk -v what="$1" '
		what ~ /^\[/ && $4 == what && tolower($2) == "t" {
			if (!start || $1 < start) start = $1
			if ($1 > end) end = $1
		}
		start && what !~ /^\[/ && $1 > start { end = $1; exit }
		what !~ /^\[/ && $3 == what && !start { start = $1 }
		END { print start, end }' /proc/kallsyms)
	[ -n "$end" ] || return
	for kind in failslab fail_page_alloc; do
		echo "0x$start" >$DEBUG/$kind/require-start
		echo "0x$end" >$DEBUG/$kind/require-end
	done
}

# fork_nfs OPTION... - of fail_nth, over a link that it makes slow enough
fork_nfs()
{
	local rc

	"$PG_HERE/fail_nth" -s "tc qdisc replace dev lo root netem limit 100000 delay" "$@"
	rc=$?
	pg_netem_off
	return $rc
}

# group NAME OPTION... - of fail_nth; then no pin may be left
group()
{
	local name=$1 program="$PG_HERE/fail_nth" rc start=$SECONDS

	shift
	pg_wanted "$name" || return 0
	[[ $name != fork*nfs* ]] || program=fork_nfs
	"$program" -n "$name" "$@"
	rc=$?
	if ! pg_wait 10 pg_pins_are_back; then
		ktap_print_msg "$name: $(pg_pins) pins held, $PG_PINS before"
		rc=$KSFT_FAIL
	fi
	pg_result "$name" "$rc" "$((SECONDS - start)) s"
}

# skip_groups PATTERN REASON
skip_groups()
{
	local name

	for name in "${GROUPS_ALL[@]}"; do
		# shellcheck disable=SC2053 # a pattern
		[[ $name != $1 ]] || pg_skip "$name" "$2"
	done
}

#
# The groups
#

NO_NFS=
if ! { net_up lo && net_peer; } >"$PG_TMP/why"; then
	pg_skip_all "no link and peer: $(tail -n 1 "$PG_TMP/why")"
fi
{ pg_nfs_server && pg_nfs_mount 4.2 "${FILE%/*}" && pg_nfs_mount 3 "${FILE3%/*}"; } >"$PG_TMP/why" ||
	NO_NFS="no NFS: $(tail -n 1 "$PG_TMP/why")"

[ -n "$NO_NFS" ] || "$PG_HERE/fail_nth" --fill "$FILE" || NO_NFS="cannot write $FILE"

load()
{
	pg_load pin_guard && pg_load pin_guard_dma && pg_load pin_guard_tx &&
		pg_wait 5 test -c $DMA -a -c /dev/pin_guard_tx
}

nfs_unload()
{
	umount "${FILE%/*}" "${FILE3%/*}" 2>/dev/null
	pg_unload_within 10 nfs_layout_flexfiles nfs_layout_nfsv41_files nfsv4 nfsv3 nfs
}

below dup_mmap
[ -n "$NO_NFS" ] || group "fork control: nfs" --control -i libaio fork "$FILE"
pg_check "the modules load" load
group "fork control: dma" --control -M 0 -i dma fork $DMA
below "[pin_guard]"
for m in "${MEMORY[@]}"; do
	group "fork dma $m" -M 1 -i dma -m "$m" fork $DMA
done
if [ -n "$NO_NFS" ]; then
	skip_groups "fork*nfs*" "$NO_NFS"
	skip_groups "read nfs*" "$NO_NFS"
else
	for io in libaio libaio_readv; do
		group "fork nfs $io" -i "$io" fork "$FILE"
	done
	for io in pread preadv libaio libaio_readv io_uring io_uring_readv; do
		group "read nfs $io" -i "$io" -m anon4 read "$FILE3"
	done
fi

below "[pin_guard_dma]"
for op in fill sum; do
	for m in "${MEMORY[@]}"; do
		group "pin $op $m" -M 2 -i $op -m "$m" pin
		group "long-term pin $op $m" -M 3 -i $op -m "$m" pin
	done
done
for io in readv writev; do
	group "iterator $io" -i $io -m small iterator
done

below "[pin_guard_tx]"
MODES=(copy splice guard registered)
for i in "${!MODES[@]}"; do
	group "send tcp ${MODES[i]}" -a "$REMOTE_V4" -M "$i" tcp
	group "send udp ${MODES[i]}" -a "$REMOTE_V4" -M "$i" udp
done
group "send tcp-small guard" -a "$REMOTE_V4" -M 2 tcp-small
group "send tcp-big guard" -a "$REMOTE_V4" -M 2 tcp-big
group "send tcp-big registered" -a "$REMOTE_V4" -M 3 tcp-big
group "send tcp-batch guard" -a "$REMOTE_V4" -M 2 tcp-batch
group "send tcp-batch registered" -a "$REMOTE_V4" -M 3 tcp-batch
group "send udp-batch guard" -a "$REMOTE_V4" -M 2 udp-batch
group "send register" -a "$REMOTE_V4" -M 3 register

pg_check "the modules unload" pg_unload pin_guard_tx pin_guard_dma pin_guard

# Each load and unload waits for grace periods, again and again.
pg_set /sys/kernel/rcu_expedited 1
# It comes behind so many allocations that fail_nth would skip some (next()).
below percpu_ref_init
group "load pin_guard: percpu_ref" load "$(pg_module_file pin_guard)"
below do_one_initcall
group "load pin_guard" load "$(pg_module_file pin_guard)"
pg_check "pin_guard loads after that" pg_load pin_guard
group "load pin_guard_dma" load "$(pg_module_file pin_guard_dma)"
group "load pin_guard_tx" load "$(pg_module_file pin_guard_tx)"
below "[pin_guard]"
if nfs_unload 2>/dev/null; then
	group "load nfs under pin_guard" come "$(modinfo -n nfs)"
else
	pg_skip "load nfs under pin_guard" "nfs.ko is in use"
fi
pg_check "the modules unload in the end" pg_unload pin_guard

net_down
health_end
pg_finish

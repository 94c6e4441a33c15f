#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The life cycle of pin_guard.ko: loading, unloading, modules that come and go beneath it,
# others that redirect the same function, I/O in flight at the wrong time, and what it tells.
#
# A machine that has mounted NFS keeps nfs.ko, and one without the tools of a server has no mount for
# us: there only what needs these is skipped.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"

DEBUGFS=/sys/kernel/debug/pin_guard
MNT=$PG_RUN/mnt/module
FTRACE=/proc/sys/kernel/ftrace_enabled

pg_isolate "$@"
COMES=("parameters are listed by modinfo" loads "nfs_file_read waits for nfs.ko"
       "copy_page_range is attached" "targets says that all is protected"
       "a second load is refused" "NFS mounts"
       "nfs_file_read is attached when nfs.ko comes" "nfs.ko after us: reads are kept")
for i in 1 2; do
	COMES+=("nfs.ko unloads under us ($i)" "nfs_file_read waits again ($i)"
		"nfs.ko reloaded ($i): reads are kept")
done
COMES+=("has hooks and a debugfs directory" unloads "unloaded: they are gone"
	"unloaded: reads are lost" "loads and unloads five times" "loaded again: reads are kept")
TELLS=("counters count windows" "counters count forks that pinned"
       "tracepoint pin_guard_window_open fires" "tracepoint pin_guard_window_close fires"
       "tracepoint pin_guard_fork fires")
IN_FLIGHT=("a window in flight is listed with its command"
	   "rmmod with a read in flight is refused"
	   "kill -9 with a read in flight closes the window")
for io in libaio io_uring; do
	IN_FLIGHT+=("a window of $io is listed" "kill -9 with $io in flight closes the windows")
done
IN_FLIGHT+=("unloads and loads under load" "the reads under load came right"
	    "after the load: reads are kept" "many reads are counted per processor"
	    "after many reads: unloads")
OTHERS=("kernel.ftrace_enabled=0 is refused" "kernel.ftrace_enabled is still 1"
	"after ftrace_enabled=0: reads are kept")
LIVEPATCH=("a livepatch on us is refused" "reads are kept after it"
	   "loading on a livepatch is refused, and says so" "nfs=0 loads on a livepatch"
	   "loads when the livepatch is gone" "loads next to a livepatch without nfs.ko"
	   "nfs_file_read waits next to it" "nfs.ko comes to both: said in the log"
	   "nfs_file_read has failed" "the livepatch is in force"
	   "nfs.ko goes: nfs_file_read waits" "nfs.ko comes to us alone: attached"
	   "reads are kept without it")
DIRECT=()
for f in copy_page_range nfs_file_read; do
	DIRECT+=("$f is busy: loads" "$f is busy: attached" "$f is busy: reads are kept")
done
DIRECT+=("loading while copy_page_range is busy for good is refused"
	 "nfs_file_read is busy when nfs.ko comes: attached"
	 "nfs_file_read is busy when nfs.ko comes: reads are kept")
BESIDE=("loads and unloads while nfs.ko does" "NFS mounts after it"
	"nfs_file_read is attached after it" "reads are kept after it (nfs.ko)")
PINS=("NFS that pins by itself comes: left alone, and said so" "targets says that it is left alone"
      "it is not redirected" "NFS that pins by itself is there: left alone, and said so"
      "NFS that pins by itself goes: nfs_file_read waits")
NO_FTRACE="after a write of 0 to ftrace_enabled: hooks, or no load, and said so"
OFF=("nfs=0 turns nfs_file_read off" "ceph=0 turns ceph_read_iter off"
     "nfs=0 ceph=0: targets says what is not protected" "nfs=0: reads are lost"
     "nfs=0: no window is opened")
pg_start "${COMES[@]}" "${TELLS[@]}" "${IN_FLIGHT[@]}" "${OTHERS[@]}" "${LIVEPATCH[@]}" \
	"${DIRECT[@]}" "${BESIDE[@]}" "${PINS[@]}" \
	"$NO_FTRACE" "${OFF[@]}"
pg_have pin_guard || pg_skip_all "no pin_guard.ko: set PIN_GUARD_MODULES"
pg_unload_all

# What is not to be had, and why
NO_NFS=		# nfs.ko
NFS_IN_USE=	# nfs.ko for us alone
NO_MOUNT=	# NFS
NO_WINDOW=	# a window, on NFS or on the device

# unless REASON COMMAND NAME... - REASON is one of these: the test is skipped for it
unless()
{
	if [ -z "${!1}" ]; then
		"${@:2}"
	else
		pg_skip "$3" "${!1}"
	fi
}

# skip REASON NAME... - of tests
skip()
{
	local name

	for name in "${@:2}"; do
		pg_skip "$name" "$1"
	done
}

nfs_load()
{
	[ -z "$NO_NFS" ] || return
	modprobe nfs || return
	[ -n "$NO_MOUNT" ] || mountpoint -q "$MNT" || pg_nfs_mount 4.2 "$MNT"
}

nfs_unload()
{
	umount "$MNT" 2>/dev/null
	[ -n "$NFS_IN_USE" ] ||
		pg_unload_within 10 nfs_layout_flexfiles nfs_layout_nfsv41_files nfsv4 nfsv3 nfs 2>/dev/null
}
modprobe nfs 2>"$PG_TMP/why" || NO_NFS="no nfs.ko: $(<"$PG_TMP/why")"
NFS_IN_USE=$NO_NFS NO_MOUNT=$NO_NFS
nfs_unload || NFS_IN_USE="nfs.ko is in use, or built in"
[ -n "$NO_NFS" ] || pg_nfs_server >"$PG_TMP/why" || NO_MOUNT="no NFS server: $(<"$PG_TMP/why")"
pg_have pin_guard_dma || NO_WINDOW=${NO_MOUNT:+$NO_MOUNT, and no pin_guard_dma.ko}
health_begin
DELAY=$(pg_delay 60)ms	# each way

# section - begins here, if any of its tests or of those behind it is wanted
section()
{
	! pg_enough || finish
}

finish()
{
	pg_unload_within 10 pin_guard_dma pin_guard 2>/dev/null
	nfs_unload
	health_end
	pg_finish
}

# target NAME STATE - what debugfs says of a function, or nothing
target()
{
	grep -q "^$1 $2" "$DEBUGFS/targets"
}

is_hooked()
{
	grep -q pin_guard /sys/kernel/tracing/enabled_functions
}

forkscrew()
{
	local rc

	mountpoint -q "$MNT" || return
	[ -e "$MNT/forkscrew" ] || "$PG_HERE/forkscrew" --fill "$MNT/forkscrew" || return
	pg_netem "$DELAY"
	"$PG_HERE/forkscrew" -i pread -c fork "$1" --filled "$MNT/forkscrew"
	rc=$?
	pg_netem_off
	return $rc
}

reads_are_kept()
{
	unless NO_MOUNT pg_run "$1" forkscrew --protected
}

reads_are_lost()
{
	unless NO_MOUNT pg_run "$1" forkscrew --control
}

# window_and_fork - and the fork pins
window_and_fork()
{
	if [ -z "$NO_MOUNT" ]; then
		forkscrew --protected
	elif [ -z "$NO_WINDOW" ]; then
		pg_load pin_guard_dma && pg_wait 5 test -c /dev/pin_guard_dma &&
			"$PG_HERE/forkscrew" -c fork --mode window /dev/pin_guard_dma
		pg_unload pin_guard_dma
	fi
}

# refused PATTERN COMMAND... - it must fail, and say so
refused()
{
	local pattern=$1 said

	shift
	if said=$("$@" 2>&1); then
		ktap_print_msg "not refused: $*"
		return 1
	fi
	echo "$said" | grep -qiE "$pattern" && return
	ktap_print_msg "$*: expected $pattern, came $said"
	return 1
}

# logs PATTERN COMMAND... - succeeds if the command does, and if we have logged such a line
logs()
{
	local pattern="\] pin_guard: $1" before

	shift
	before=$(pg_log | grep -cE "$pattern")
	"$@" || return
	[ "$(pg_log | grep -cE "$pattern")" -gt "$before" ] && return
	ktap_print_msg "$*: expected in the log $pattern"
	return 1
}

# in_flight COMMAND... - in a session of its own, till a window of it is listed
in_flight()
{
	setsid "$@" >/dev/null 2>&1 &
	READER=$!
	pg_undo kill -9 -- -$READER
	pg_wait 20 grep -qE '[0-9] +(dd|forkscrew|iou-wrk-[0-9]+) ' "$DEBUGFS/windows"
}

kill_reader()
{
	kill -9 -- -"$READER" && wait "$READER" 2>/dev/null
}

no_window_is_open()
{
	[ "$(pg_counter windows_open)" = 0 ]
}

#
# Modules that come and go
#

pg_check "parameters are listed by modinfo" \
	test "$(modinfo -F parm "$(pg_module_file pin_guard || echo pin_guard)" | grep -cE '^(nfs|ceph):')" = 2
pg_check loads pg_load pin_guard
unless NFS_IN_USE \
	pg_check "nfs_file_read waits for nfs.ko" target nfs_file_read "waiting for module nfs"
pg_check "copy_page_range is attached" target copy_page_range attached
pg_check "targets says that all is protected" target "protected for [0-9]*" 's$'
pg_check "a second load is refused" refused "exists" pg_load pin_guard
nfs_load
unless NO_MOUNT pg_check "NFS mounts" mountpoint -q "$MNT"
unless NFS_IN_USE pg_check "nfs_file_read is attached when nfs.ko comes" target nfs_file_read attached
unless NFS_IN_USE reads_are_kept "nfs.ko after us: reads are kept"
for i in 1 2; do
	pg_any "nfs*($i)*" || continue
	unless NFS_IN_USE pg_check "nfs.ko unloads under us ($i)" nfs_unload
	unless NFS_IN_USE pg_check "nfs_file_read waits again ($i)" target nfs_file_read waiting
	nfs_load
	unless NFS_IN_USE reads_are_kept "nfs.ko reloaded ($i): reads are kept"
done
pg_check "has hooks and a debugfs directory" eval "is_hooked && [ -d $DEBUGFS ]"
pg_check "unloads" pg_unload pin_guard
pg_check "unloaded: they are gone" eval "! is_hooked && [ ! -e $DEBUGFS ]"
reads_are_lost "unloaded: reads are lost"

many_loads()
{
	for _ in 1 2 3 4 5; do
		pg_load pin_guard && pg_unload pin_guard || return
	done
	pg_load pin_guard
}
# Each time takes many seconds without KVM.
if pg_wanted "loads and unloads five times"; then
	pg_check "loads and unloads five times" many_loads
else
	pg_load pin_guard
fi
reads_are_kept "loaded again: reads are kept"

#
# What it tells
#

section
echo 1 >/sys/kernel/tracing/events/pin_guard/enable
echo >/sys/kernel/tracing/trace
before=$(pg_counter windows_opened) pinned=$(pg_counter forks_pinned)
window_and_fork >/dev/null
echo 0 >/sys/kernel/tracing/events/pin_guard/enable
unless NO_WINDOW pg_check "counters count windows" test "$(pg_counter windows_opened)" -gt "${before:-0}"
unless NO_WINDOW \
	pg_check "counters count forks that pinned" test "$(pg_counter forks_pinned)" -gt "${pinned:-0}"
for event in window_open window_close fork; do
	unless NO_WINDOW pg_check "tracepoint pin_guard_$event fires" \
		grep -q "pin_guard_$event:" /sys/kernel/tracing/trace
done

#
# I/O in flight at the wrong time
#

rmmod_is_refused()
{
	refused "in use|busy|temporarily unavailable" rmmod pin_guard
}

# Reads of a file that is known go on while we come and go.
# shellcheck disable=SC2016 # of the inner shell
reader()
{
	timeout 1800 bash -c 'while [ ! -e "$2" ]; do
		came=$(dd if="$0" bs=64k iflag=direct 2>/dev/null | sha256sum)
		[ "$came" = "$1" ] || { echo "# expected $1, came $came"; exit 1; }
	done' "$MNT/file" "$(sha256sum <"$MNT/file")" "$PG_RUN/stop" &
	READER=$!
}

many_reads()
{
	"$PG_HERE/dma_thread" -t 2 "$MNT" >"$PG_TMP/many" 2>&1 || cat "$PG_TMP/many"
	[ "$(pg_counter uses_counted_apart)" -gt 0 ]
}

come_and_go()
{
	for _ in 1 2 3 4 5 6; do
		# Between two reads: with so many the module is in use for most of the time.
		pg_unload_within 60 pin_guard 2>/dev/null || return
		sleep 0.2
		pg_load pin_guard || return
		sleep 0.2
	done
}

section
if [ -n "$NO_MOUNT" ]; then
	skip "$NO_MOUNT" "${IN_FLIGHT[@]}"
else
	head -c 1M /dev/urandom >"$MNT/file"
	pg_netem "$DELAY"
	pg_check "a window in flight is listed with its command" \
		in_flight dd "if=$MNT/file" of=/dev/null bs=4k iflag=direct
	pg_check "rmmod with a read in flight is refused" pg_wait 5 rmmod_is_refused
	pg_loaded pin_guard || pg_load pin_guard
	kill_reader
	pg_check "kill -9 with a read in flight closes the window" pg_wait 10 no_window_is_open
	for io in libaio io_uring; do
		pg_check "a window of $io is listed" in_flight \
			"$PG_HERE/forkscrew" -i $io -c fork -n 100 --filled "$MNT/forkscrew"
		kill_reader
		pg_check "kill -9 with $io in flight closes the windows" \
			pg_wait 10 no_window_is_open
	done
	pg_netem_off

	reader
	if pg_wanted "unloads and loads under load"; then
		pg_check "unloads and loads under load" come_and_go
	fi
	touch "$PG_RUN/stop"
	pg_check "the reads under load came right" wait "$READER"
	reads_are_kept "after the load: reads are kept"
	pg_check "many reads are counted per processor" pg_wait 2 many_reads
	pg_check "after many reads: unloads" pg_unload pin_guard
	pg_loaded pin_guard || pg_load pin_guard
fi

#
# Others who redirect
#

section
ftrace_off()
{
	bash -c "echo 0 >$FTRACE"
}
pg_check "kernel.ftrace_enabled=0 is refused" refused "busy|permitted|invalid|error" ftrace_off
pg_check "kernel.ftrace_enabled is still 1" grep -q 1 "$FTRACE"
reads_are_kept "after ftrace_enabled=0: reads are kept"

klp_gone()
{
	echo 0 >/sys/kernel/livepatch/test_klp_nfs/enabled
	pg_unload test_klp_nfs
} 2>/dev/null
pg_undo pg_wait 30 klp_gone
pg_undo pg_unload test_direct
NOT_PROTECTED="nfs_file_read: not protected: ."
if ! pg_have test_klp_nfs; then
	skip "no test_klp_nfs.ko: build test_modules with KDIR, of a kernel with CONFIG_LIVEPATCH" "${LIVEPATCH[@]}"
elif [ -n "$NFS_IN_USE" ]; then
	# Who has mounted NFS could not read.
	skip "$NFS_IN_USE" "${LIVEPATCH[@]}"
else
	pg_check "a livepatch on us is refused" refused "busy" pg_load test_klp_nfs
	reads_are_kept "reads are kept after it"
	pg_unload pin_guard
	pg_load test_klp_nfs
	pg_check "loading on a livepatch is refused, and says so" \
		logs "$NOT_PROTECTED" refused "busy" pg_load pin_guard
	pg_check "nfs=0 loads on a livepatch" pg_load pin_guard nfs=0
	pg_unload pin_guard
	pg_wait 30 klp_gone
	pg_check "loads when the livepatch is gone" pg_load pin_guard

	# The kernel shows a module that comes to livepatches first.
	pg_unload pin_guard
	nfs_unload
	pg_load test_klp_nfs
	pg_check "loads next to a livepatch without nfs.ko" pg_load pin_guard
	pg_check "nfs_file_read waits next to it" target nfs_file_read waiting
	pg_check "nfs.ko comes to both: said in the log" logs "$NOT_PROTECTED" nfs_load
	pg_check "nfs_file_read has failed" target nfs_file_read "failed -16$"
	unless NO_MOUNT pg_check "the livepatch is in force" \
		pg_wait 10 refused "not supported" cat "$MNT/file"
	nfs_unload
	pg_check "nfs.ko goes: nfs_file_read waits" target nfs_file_read waiting
	pg_wait 30 klp_gone
	nfs_load
	pg_check "nfs.ko comes to us alone: attached" target nfs_file_read attached
	reads_are_kept "reads are kept without it"
fi
pg_unload pin_guard

# Who shares a function with us can be busy at first: a BPF program, while its trampoline is updated.
if ! pg_have test_direct; then
	skip "no test_direct.ko: build test_modules with KDIR" "${DIRECT[@]}"
else
	for f in copy_page_range nfs_file_read; do
		if [ -n "$NO_NFS" ] && [ $f = nfs_file_read ]; then
			skip "$NO_NFS" "$f is busy: "{loads,attached,"reads are kept"}
			continue
		fi
		pg_load test_direct function=$f busy=3
		pg_check "$f is busy: loads" pg_load pin_guard
		pg_check "$f is busy: attached" pg_wait 5 target $f attached
		reads_are_kept "$f is busy: reads are kept"
		pg_unload pin_guard test_direct
	done
	pg_load test_direct function=copy_page_range busy=1000000000
	pg_check "loading while copy_page_range is busy for good is refused" \
		refused "busy|temporarily unavailable" pg_load pin_guard
	pg_unload pin_guard test_direct
	nfs_unload
	pg_load pin_guard
	pg_load test_direct function=nfs_file_read module=nfs busy=3
	nfs_load
	unless NFS_IN_USE pg_check "nfs_file_read is busy when nfs.ko comes: attached" \
		pg_wait 5 target nfs_file_read attached
	unless NFS_IN_USE \
		reads_are_kept "nfs_file_read is busy when nfs.ko comes: reads are kept"
	nfs_unload
	pg_unload test_direct pin_guard
	nfs_load
fi

# nfs.ko comes and goes while we do.
nfs_comes_and_goes()
{
	while [ ! -e "$PG_RUN/stop" ]; do
		modprobe nfs
		rmmod nfs
	done 2>/dev/null
}
come_and_go_beside()
{
	for _ in {1..25}; do
		pg_load pin_guard || return
		grep -qE "^nfs_file_read (attached|waiting)" "$DEBUGFS/targets" || return
		pg_unload_within 10 pin_guard 2>/dev/null || return
	done
	pg_load pin_guard
}
nfs_unload
if [ -n "$NFS_IN_USE" ]; then
	pg_skip "loads and unloads while nfs.ko does" "$NFS_IN_USE"
	pg_load pin_guard
elif pg_wanted "loads and unloads while nfs.ko does"; then
	rm -f "$PG_RUN/stop"
	nfs_comes_and_goes &
	READER=$!
	pg_check "loads and unloads while nfs.ko does" come_and_go_beside
	touch "$PG_RUN/stop"
	wait "$READER"
else
	pg_load pin_guard
fi
nfs_load
unless NO_MOUNT pg_check "NFS mounts after it" mountpoint -q "$MNT"
unless NO_NFS pg_check "nfs_file_read is attached after it" target nfs_file_read attached
reads_are_kept "reads are kept after it (nfs.ko)"
pg_unload pin_guard

# A kernel whose NFS pins by itself is known by a function of its nfs.ko. Ours has no more than that.
leaves_nfs_alone()
{
	logs "nfs_file_read: left alone, .*nfs_release_request_list" "$@"
}
is_redirected()
{
	grep -q "^$1 " /sys/kernel/tracing/enabled_functions
}
if ! own_nfs=$(pg_module_file nfs); then
	skip "no nfs.ko of the tests: build test_modules with KDIR" "${PINS[@]}"
elif [ -n "$NFS_IN_USE" ]; then
	skip "$NFS_IN_USE" "${PINS[@]}"
else
	nfs_unload
	pg_undo pg_unload nfs
	pg_load pin_guard
	pg_check "${PINS[0]}" leaves_nfs_alone insmod "$own_nfs"
	pg_check "${PINS[1]}" target nfs_file_read "left alone"
	pg_check "${PINS[2]}" eval "is_redirected copy_page_range && ! is_redirected nfs_file_read"
	pg_unload pin_guard
	pg_check "${PINS[3]}" leaves_nfs_alone pg_load pin_guard
	pg_unload nfs
	pg_check "${PINS[4]}" target nfs_file_read waiting
	pg_unload pin_guard
	nfs_load
fi

# Linux 7.3 has the file still, but refuses 0.
no_load_without_hooks()
{
	if pg_set "$FTRACE" 0 2>/dev/null; then
		logs "[a-z_]+: not protected: ." refused "busy" pg_load pin_guard || return
		echo 1 >"$FTRACE"
	fi
	pg_load pin_guard && target copy_page_range attached
}
pg_check "$NO_FTRACE" no_load_without_hooks
pg_unload pin_guard

#
# Targets that are turned off
#

section
pg_load pin_guard nfs=0 ceph=0
pg_check "nfs=0 turns nfs_file_read off" target nfs_file_read off
pg_check "ceph=0 turns ceph_read_iter off" target ceph_read_iter off
pg_check "nfs=0 ceph=0: targets says what is not protected" \
	target "protected for [0-9]* s, but not nfs_file_read" "ceph_read_iter$"
reads_are_lost "nfs=0: reads are lost"
# Also where the kernel keeps them by itself.
unless NO_MOUNT pg_check "nfs=0: no window is opened" test "$(pg_counter windows_opened)" = 0
finish

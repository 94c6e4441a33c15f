#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# This suite itself, as farms use it: on a machine that lacks something only what needs it is
# skipped, a script that is ended leaves no module, and a name is the same whatever the result.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=nfs_server.sh
. "$PG_HERE/nfs_server.sh"

pg_isolate "$@"
IN_USE="module.sh with nfs.ko in use: only what unloads it is skipped"
NO_SERVER="module.sh without an NFS server: only what reads is skipped"
LEFT_OUT="what the kernel cannot do is in no plan"
ALL_SKIPPED="a script that can run no test is skipped"
ENDED=("dma.sh ended by a timeout: the modules are unloaded"
       "nfs.sh ended by a timeout with reads in flight: the module is unloaded"
       "dma.sh ended by a timeout with the device open: the log says what is loaded")
SAME="a run that fails has the same names"
pg_start "$IN_USE" "$NO_SERVER" "$LEFT_OUT" "$ALL_SKIPPED" "${ENDED[@]}" "$SAME"
for m in pin_guard pin_guard_dma; do
	pg_have "$m" || pg_skip_all "no $m.ko: set PIN_GUARD_MODULES"
done
[ ! -d /sys/kernel/debug/fail_make_request ] ||
	pg_leave_out "with CONFIG_FAIL_MAKE_REQUEST nothing is to be left out" "$LEFT_OUT"
pg_unload_all
health_begin
LOG=$PG_TMP/log

# t NAME COMMAND... - a test. The log of its run is shown where nobody takes its results for ours.
t()
{
	local rc

	pg_wanted "$1" || return 0
	: >"$LOG"
	"${@:2}"
	rc=$?
	case $rc in
	"$KSFT_PASS" | "$KSFT_SKIP") ;;
	*) tail -n 80 "$LOG" | sed 's/^/# | /' ;;
	esac
	pg_result "$1" "$rc"
}

# command_of SCRIPT PATTERN... - into COMMAND: these of its tests, as nobody of us would start it
command_of()
{
	local tests

	tests=$(printf "$1:%s\n" "${@:2}")
	COMMAND=(env -u PG_ISOLATED -u PIN_GUARD_PART -u PIN_GUARD_PROFILE "PIN_GUARD_TESTS=$tests"
		"$PG_HERE/$1")
}

# run SCRIPT PATTERN...
run()
{
	command_of "$@"
	"${COMMAND[@]}" >"$LOG" 2>&1
}

# module_sh SKIPPED... - which are the ones that are skipped, and none fails
module_sh()
{
	local skipped expected

	run module.sh loads "nfs_file_read waits for nfs.ko" "copy_page_range is attached" \
		"a second load is refused" "NFS mounts" "nfs.ko unloads under us (1)" \
		"unloaded: *" "counters *" "tracepoint *" "rmmod with a read in flight is refused" ||
		{ ktap_print_msg "module.sh: status $?"; return 1; }
	skipped=$(sed -n 's/^ok [0-9]* \(.*\) # SKIP$/\1/p' "$LOG" | sort)
	expected=$(printf '%s\n' "$@" | sort)
	[ "$skipped" = "$expected" ] && return
	ktap_print_msg "expected as skipped: ${expected//$'\n'/, }; came: ${skipped//$'\n'/, }"
	return 1
}

nfs_in_use()
{
	local mark=${#PG_UNDO[@]} rc

	if ! { pg_nfs_server && pg_nfs_mount 4.2 "$PG_RUN/mnt/suite"; } >"$PG_TMP/why" 2>&1; then
		ktap_print_msg "no NFS: $(tail -n 1 "$PG_TMP/why")"
		rc=$KSFT_SKIP
	else
		module_sh "nfs_file_read waits for nfs.ko" "nfs.ko unloads under us (1)"
		rc=$?
	fi
	pg_cleanup "$mark"
	return "$rc"
}

# without_server COMMAND... - of an NFS server's programs one is not in the PATH
without_server()
{
	local dir dirs

	if [ ! -d "$PG_TMP/path" ]; then
		IFS=: read -ra dirs <<<"$PATH"
		mkdir "$PG_TMP/path"
		for dir in "${dirs[@]}"; do
			ln -s "$dir"/* "$PG_TMP/path" 2>/dev/null	# the first of a name
		done
		rm -f "$PG_TMP/path/rpc.nfsd"
	fi
	PATH=$PG_TMP/path "$@"
}

no_server()
{
	without_server module_sh "NFS mounts" "unloaded: reads are lost" \
		"rmmod with a read in flight is refused"
}

all_skipped()
{
	without_server run nfs.sh "v4.2 control dma_thread anon"
	[ $? = "$KSFT_SKIP" ]
}

left_out()
{
	run io_errors.sh "*every third bio fails read"
	[ $? = "$KSFT_SKIP" ] && grep -qx "1..0 # SKIP no CONFIG_FAIL_MAKE_REQUEST" "$LOG"
}

# ended SCRIPT PATTERN COMMAND... - when COMMAND succeeds, as kselftest's runner does it
ended()
{
	local pid status

	command_of "$1" "$2"
	timeout --foreground 3600 timeout 3600 "${COMMAND[@]}" >"$LOG" 2>&1 &
	pid=$!
	if ! pg_wait 300 "${@:3}"; then
		ktap_print_msg "$1: not so far within 300 s: ${*:3}"
		kill $pid
		wait $pid
		return 1
	fi
	kill $pid
	wait $pid
	status=$?
	! grep -q "^ok.*no pin is left" "$LOG" && [ $status != 0 ] && return
	ktap_print_msg "$1: was at its end"
	return 1
}

modules_are_gone()
{
	local name

	for name in "${PG_MODULES[@]}"; do
		! pg_loaded "$name" || { ktap_print_msg "$name is loaded"; return 1; }
	done
}

dma_runs()
{
	pg_loaded pin_guard_dma && pgrep -x forkscrew >/dev/null
}

# Where processes are quick a forkscrew is over before anybody sees it: one case at a time, and
# all of them.
dma_is_ended()
{
	PIN_GUARD_JOBS=1 ended dma.sh "forkscrew *" "$@"
}

dma_ended()
{
	dma_is_ended dma_runs && modules_are_gone
}

windows_are_open()
{
	[ "$(pg_counter windows_open)" -gt 0 ]
} 2>/dev/null

nfs_ended()
{
	ended nfs.sh "v4.2 protected forkscrew:pread *" windows_are_open && modules_are_gone
}

device_is_open()
{
	dma_runs && { exec {DEVICE}<>/dev/pin_guard_dma; } 2>/dev/null
}

told()
{
	local rc

	dma_is_ended device_is_open &&
		grep -q "^# pin_guard is still loaded: .*in use" "$LOG"
	rc=$?
	[ -z "${DEVICE:-}" ] || exec {DEVICE}>&-
	pg_unload "${PG_MODULES[@]}" && return "$rc"
}

# unprotected - loads of the module in $PG_TMP/broken protect nothing
unprotected()
{
	local tool

	mkdir "$PG_TMP/broken"
	for tool in insmod modprobe; do
		cat >"$PG_TMP/broken/$tool" <<-END
			#!/bin/sh
			case \${1##*/} in pin_guard | pin_guard.ko) set -- "\$@" nfs=0 ;; esac
			exec $(type -P $tool) "\$@"
		END
		chmod +x "$PG_TMP/broken/$tool"
	done
}

# reads LOG - as it is in the log of kselftest's runner
reads()
{
	local rc

	run nfs.sh "v4.2 protected "{"forkscrew:pread fork","dma_thread anon",pthread_read_and_fork}
	rc=$?
	{ echo "# selftests: pin_guard: nfs.sh"; sed 's/^/# /' "$LOG"; } >"$1"
	return $rc
}

same_names()
{
	"$PG_HERE/same_names" "$PG_TMP/passes" "$1" >"$LOG"
}

names_are_the_same()
{
	reads "$PG_TMP/passes" || { ktap_print_msg "nfs.sh: status $?"; return 1; }
	unprotected
	if PATH=$PG_TMP/broken:$PATH reads "$PG_TMP/fails"; then
		ktap_print_msg "with nfs=0 nothing is lost: this kernel keeps the data by itself"
		return "$KSFT_SKIP"
	fi
	grep -q '^# # not ok' "$PG_TMP/fails" && same_names "$PG_TMP/fails" || return
	# And what would be seen if it were not so, is.
	sed 's/^# # not ok .*/& of 7168 bytes/' "$PG_TMP/fails" >"$PG_TMP/figures"
	! same_names "$PG_TMP/figures" || { ktap_print_msg "same_names does not see a figure"; return 1; }
}

t "$IN_USE" nfs_in_use
t "$NO_SERVER" no_server
t "$LEFT_OUT" left_out
t "$ALL_SKIPPED" all_skipped
t "${ENDED[0]}" dma_ended
t "${ENDED[1]}" nfs_ended
t "${ENDED[2]}" told
t "$SAME" names_are_the_same

health_end
pg_finish

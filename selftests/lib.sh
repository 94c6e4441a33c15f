#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the test scripts: which tests run, modules, health of the kernel, memory.
#
# PIN_GUARD_MODULES  the directories of modules that modprobe does not know
# PIN_GUARD_TESTS    the tests to run, a line each, as in quick.list
# PIN_GUARD_PROFILE  quick: without PIN_GUARD_TESTS, those of quick.list [all]
# PIN_GUARD_PART     only those of them whose names match this pattern
# PIN_GUARD_LIST     1: print the names of the tests, run none
# shellcheck disable=SC2034,SC2154 # shared with ktap_helpers.sh

set -u

PG_HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
PG_RUN=/run/pin_guard_test
PG_UNDO=()

for PG_KTAP in "$PG_HERE/.." "${KSFT:-/nonexistent}" "${BASE_DIR:-/nonexistent}"; do
	[ -r "$PG_KTAP/kselftest/ktap_helpers.sh" ] && break
done
# shellcheck source=/dev/null
. "$PG_KTAP/kselftest/ktap_helpers.sh" || exit 4

# pg_undo COMMAND... - run at the end, last first
pg_undo()
{
	PG_UNDO+=("$(printf '%q ' "$@")")
}

# pg_cleanup [N] - undoes all but the first N
pg_cleanup()
{
	local i

	for ((i = ${#PG_UNDO[@]} - 1; i >= ${1:-0}; i--)); do
		eval "${PG_UNDO[i]}" >/dev/null 2>&1
		unset "PG_UNDO[i]"
	done
}

# pg_end STATUS - whatever ends the script. A module that stays would be in the way of those who
# come next: it is unloaded, or the log says that it cannot be.
pg_end()
{
	pg_cleanup
	# What is left of us inside pg_isolate may be in flight still: its outer shell does this
	# when that has ended.
	[ "${PG_ISOLATED:-}" = pids ] || pg_modules_go "$1"
}

# pg_modules_go STATUS - of the script
pg_modules_go()
{
	local said

	case $1 in "$KSFT_PASS" | "$KSFT_SKIP") return ;; esac
	said=$(pg_unload_within 10 "${PG_MODULES[@]}" 2>&1) ||
		ktap_print_msg "pin_guard is still loaded: ${said##*$'\n'}"
}

# pg_skip_all REASON - before the first result
pg_skip_all()
{
	ktap_skip_all "$*"
	exit "$KSFT_SKIP"
}

#
# Which tests: see quick.list for the form
#

PG_SCRIPT=${0##*/}
PG_HEALTH=("the kernel log has no complaint" "no pin is left")
# Of each test, the patterns of its cases, a line each; empty: it is not wanted.
declare -A PG_WANTED=(["${PG_HEALTH[0]}"]="*" ["${PG_HEALTH[1]}"]="*")
PG_PATTERNS=()		# of PIN_GUARD_TESTS, for this script
PG_UNWANTED=()		# those with a ! before them
PG_PLAN=0		# how many tests there are

pg_patterns()
{
	local line tests=${PIN_GUARD_TESTS:-} list=$PG_HERE/${PIN_GUARD_PROFILE:-}.list

	if [ -z "$tests" ] && [ -n "${PIN_GUARD_PROFILE:-}" ]; then
		[ -r "$list" ] || ktap_exit_fail_msg \
			"PIN_GUARD_PROFILE=$PIN_GUARD_PROFILE: no $list; fix: PIN_GUARD_PROFILE=quick"
		tests=$(<"$list")
	fi
	while read -r line; do
		case $line in
		"$PG_SCRIPT") PG_PATTERNS+=("*") ;;
		"$PG_SCRIPT":*) PG_PATTERNS+=("${line#*:}") ;;
		"!$PG_SCRIPT":*) PG_UNWANTED+=("${line#*:}") ;;
		esac
	done <<<"${tests:-$PG_SCRIPT}"
}

# pg_select NAME - into PG_WANTED
pg_select()
{
	local pattern cases

	PG_WANTED[$1]=
	# shellcheck disable=SC2053 # a pattern
	[[ $1 == ${PIN_GUARD_PART:-*} ]] || return
	for pattern in "${PG_PATTERNS[@]}"; do
		cases="*"
		# A name may have a colon, with a blank behind it.
		if [[ $pattern =~ ^(.*):([^\ ].*)$ ]]; then
			pattern=${BASH_REMATCH[1]} cases=${BASH_REMATCH[2]}
		fi
		# shellcheck disable=SC2053 # a pattern
		[[ $1 != $pattern ]] || PG_WANTED[$1]+=$cases$'\n'
	done
	for pattern in "${PG_UNWANTED[@]}"; do
		# shellcheck disable=SC2053 # a pattern
		[[ $1 != $pattern ]] || PG_WANTED[$1]=
	done
}

# pg_wanted NAME - of a test
pg_wanted()
{
	[ -n "${PG_WANTED[$1]:-}" ]
}

# pg_any PATTERN - is one of these tests wanted?
pg_any()
{
	local name

	for name in "${!PG_WANTED[@]}"; do
		# shellcheck disable=SC2053 # a pattern
		[[ $name == $1 ]] && pg_wanted "$name" && return
	done
	return 1
}

# pg_start NAME... - every script begins so, with the names of its tests
pg_start()
{
	local name plan=0

	pg_patterns
	for name; do
		pg_select "$name"
		! pg_wanted "$name" || plan=$((plan + 1))
	done
	if [ -n "${PIN_GUARD_LIST:-}" ]; then
		for name; do
			! pg_wanted "$name" || echo "$PG_SCRIPT:$name"
		done
		[ $plan = 0 ] || printf "$PG_SCRIPT:%s\n" "${PG_HEALTH[@]}"
		exit 0
	fi
	ktap_print_header
	[ $plan -gt 0 ] || pg_skip_all "none of its tests is wanted"
	[ "$(id -u)" = 0 ] || pg_skip_all "must be root"
	trap 'pg_end $?' EXIT
	# kselftest's timeout signals more than once.
	trap 'trap "" INT TERM; exit 1' INT TERM
	mkdir -p "$PG_RUN"
	PG_TMP=$(mktemp -d) && pg_undo rm -rf "$PG_TMP"
	ktap_print_msg "kernel: $(uname -r)"
	mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
	mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
	PG_PLAN=$((plan + ${#PG_HEALTH[@]}))
	read -ra PG_STAT </proc/stat
}

# pg_leave_out REASON PATTERN... - before the first result: what this kernel cannot do at all is not
# in its plan. PIN_GUARD_LIST, which knows no kernel, has it.
pg_leave_out()
{
	local reason=$1 pattern name

	shift
	for pattern; do
		for name in "${!PG_WANTED[@]}"; do
			# shellcheck disable=SC2053 # a pattern
			[[ $name == $pattern && -n ${PG_WANTED[$name]} ]] || continue
			ktap_print_msg "not in this kernel's plan: $name: $reason"
			PG_WANTED[$name]=
			PG_PLAN=$((PG_PLAN - 1))
		done
	done
	! pg_enough || pg_skip_all "$reason"
}

# pg_plan - printed with the first result: until then all may be skipped, which is a plan, too
pg_plan()
{
	[ "$KSFT_NUM_TESTS" != 0 ] || ktap_set_plan "$PG_PLAN"
}

# pg_enough - have all that are wanted been told, but for PG_HEALTH?
pg_enough()
{
	[ "$KTAP_TESTNO" -gt $((PG_PLAN - ${#PG_HEALTH[@]})) ]
}

# pg_finish - every script ends so
pg_finish()
{
	local stat all=0 idle i

	pg_cleanup 0
	read -ra stat </proc/stat
	# user nice system idle iowait irq softirq steal
	for i in {1..8}; do
		all=$((all + stat[i] - PG_STAT[i]))
	done
	idle=$((stat[4] + stat[5] - PG_STAT[4] - PG_STAT[5]))
	ktap_print_msg "time: $PG_SCRIPT: $SECONDS s, processors busy for" \
		"$(((all - idle) * 100 / (all ? all : 1))) %"
	[ "$KTAP_CNT_FAIL" = 0 ] || KSFT_NUM_TESTS=-1	# also if nobody asked for that test
	# Without a test that could run, PG_HEALTH says nothing.
	if [ "$KTAP_CNT_FAIL $KTAP_CNT_PASS" = "0 ${#PG_HEALTH[@]}" ] && [ "$KTAP_CNT_SKIP" -gt 0 ]; then
		ktap_print_totals
		exit "$KSFT_SKIP"
	fi
	ktap_finished
}

# pg_isolate ARGS... - go on in network, mount and PID namespaces of our own: the server, the
# delay on lo and the mounts are nobody else's, and go away with us
pg_isolate()
{
	local pid status

	[ -n "${PG_ISOLATED:-}${PIN_GUARD_LIST:-}" ] && return
	[ "$(id -u)" = 0 ] || return
	# unshare ignores a signal, of kselftest's timeout say: it goes to all of the job, which
	# then puts back what it has changed.
	set -m
	PG_ISOLATED=pids setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child \
		--mount-proc "$0" "$@" <&0 &
	pid=$!
	set +m
	trap 'kill -TERM -- -$pid' INT TERM
	wait "$pid"
	status=$?
	while kill -0 "$pid" 2>/dev/null; do	# a signal ended the wait
		wait "$pid"
		status=$?
	done
	pg_modules_go "$status"
	exit "$status"
}

# pg_run NAME COMMAND... - a test that is a program: its exit status is the result. Without the
# test nothing is run.
pg_run()
{
	local name=$1 rc start=$SECONDS lines line ok='' skipped=''

	shift
	pg_known "$name" && pg_wanted "$name" || return 0
	PIN_GUARD_CASES=${PG_WANTED[$name]} "$@" >"$PG_TMP/output" 2>&1
	rc=$?
	mapfile -t lines <"$PG_TMP/output"
	for line in "${lines[@]}"; do
		echo "# $line"
		case $line in
		ok*"# SKIP"* | ok*"# XFAIL"*) skipped=1 ;;
		ok*) ok=1 ;;
		esac
	done
	# A program that could do nothing has skipped, even if its cases did one by one; one
	# that reports nothing has failed.
	if [ $rc = 0 ] && [ -z "$ok" ]; then
		[ -n "$skipped" ] && rc=$KSFT_SKIP || rc=$KSFT_FAIL
	fi
	pg_result "$name" "$rc" "$((SECONDS - start)) s"
}

# pg_known NAME - or the test fails
pg_known()
{
	[ -z "${PG_WANTED[$1]+known}" ] || return 0
	ktap_print_msg "$1: not one of pg_start's"
	pg_plan
	ktap_test_fail "$1"
	return 1
}

# pg_result NAME STATUS [REASON] - of a test that is not wanted only a failure is told
pg_result()
{
	pg_known "$1" || return 0
	pg_wanted "$1" || [[ $2 != "$KSFT_PASS" && $2 != "$KSFT_SKIP" ]] || return 0
	pg_plan
	case "$2" in
	"$KSFT_PASS") ktap_test_pass "$1" ;;
	"$KSFT_SKIP") ktap_test_skip "$1" ;;
	*) ktap_test_fail "$1" ;;
	esac
	[ -z "${3:-}" ] || ktap_print_msg "$1: $3"
}

# pg_skip NAME REASON
pg_skip()
{
	! pg_wanted "$1" || ktap_print_msg "$1: $2"
	pg_result "$1" "$KSFT_SKIP"
}

# pg_check NAME COMMAND... - passes if the command succeeds, which is run in any case: the tests
# after it stand on what it does
pg_check()
{
	local name=$1

	shift
	if "$@"; then
		pg_result "$name" "$KSFT_PASS"
	else
		ktap_print_msg "failed: $*"
		pg_result "$name" "$KSFT_FAIL"
	fi
}

# pg_wait SECONDS COMMAND... - until the command succeeds
pg_wait()
{
	local tries=$(($1 * 10))

	shift
	until "$@"; do
		((tries-- > 0)) || return 1
		pg_nap 0.1
	done
}

# Where there is no KVM, to start a process costs more than most of what scripts do: what is done
# often does without.

# pg_nap SECONDS - as sleep
pg_nap()
{
	read -rt "$1" -u "$PG_NOTHING"
	return 0
}
exec {PG_NOTHING}<> <(:)

#
# Modules
#

PG_MODULES=(pin_guard_dma pin_guard_tx pin_guard)	# those behind come to use by those before

# pg_module NAME - the file of a module, or nothing where modprobe knows it
pg_module_file()
{
	local dir sub

	for dir in ${PIN_GUARD_MODULES:-} "$PG_HERE/test_modules"; do
		for sub in "" rust/ samples/; do
			[ -r "$dir/$sub$1.ko" ] && echo "$dir/$sub$1.ko" && return
		done
	done
	return 1
}

pg_have()
{
	pg_module_file "$1" >/dev/null || modinfo "$1" >/dev/null 2>&1
}

pg_loaded()
{
	[ -d "/sys/module/$1" ]
}

# pg_load NAME [PARAM=VALUE...]
pg_load()
{
	local name=$1 file

	shift
	if file=$(pg_module_file "$name"); then
		insmod "$file" "$@"
	else
		modprobe "$name" "$@"
	fi
}

# pg_unload NAME... - those that are loaded. pin_guard is in use for a moment after many uses.
pg_unload()
{
	pg_unload_within 2 "$@"
}

# pg_unload_within SECONDS NAME... - for each of them
pg_unload_within()
{
	local name

	for name in "${@:2}"; do
		! pg_loaded "$name" || pg_wait "$1" rmmod "$name" 2>/dev/null || rmmod "$name" || return 1
	done
}

# pg_unload_all - what a test that was ended has left, or somebody has loaded; or no test can run
pg_unload_all()
{
	pg_unload "${PG_MODULES[@]}" || pg_skip_all "pin_guard is loaded and busy"
}

# pg_counter NAME - from debugfs
pg_counter()
{
	local name value

	while read -r name value; do
		[ "${name%:}" != "$1" ] || echo "$value"
	done </sys/kernel/debug/pin_guard/counters
}

#
# Health: no test of ours may leave a complaint in the kernel log, or a pin
#

PG_COMPLAINTS='WARNING:|BUG:|BUG |kernel BUG|Oops|general protection fault|KASAN|UBSAN|KCSAN'
PG_COMPLAINTS+='|possible (recursive|circular) locking|inconsistent lock state|suspicious RCU'
PG_COMPLAINTS+='|hung task|blocked for more than|rcu.*stall|soft lockup|Unable to handle'
PG_COMPLAINTS+='|refcount_t:|Call Trace:|ODEBUG:|non-static key|unlock balance|held lock freed'
PG_COMPLAINTS+='|lock held when returning|unsafe lock order|lock inversion|suspected memory leaks'

PG_LEAKS=/sys/kernel/debug/kmemleak

health_begin()
{
	# Where kmemleak is off it refuses this, which is the default, and every scan.
	PG_SCANS=
	[ ! -w $PG_LEAKS ] || { echo stack=on >$PG_LEAKS && PG_SCANS=1; } 2>/dev/null
	PG_MARK="pin_guard_test: $$ $RANDOM"
	echo "$PG_MARK" >/dev/kmsg
	dmesg | grep -q . || pg_skip_all "cannot read the kernel log"
	PG_PINS=$(pg_pins)
	PG_RESERVED=$(pg_reserved)
}

# pins that are held now
pg_pins()
{
	local stat name value pins=0

	# Counters are per CPU until they are gathered.
	echo 1 2>/dev/null >/proc/sys/vm/stat_refresh
	mapfile -t stat </proc/vmstat
	for name in "${stat[@]}"; do
		value=${name#* }
		case $name in
		nr_foll_pin_acquired*) pins=$((pins + value)) ;;
		nr_foll_pin_released*) pins=$((pins - value)) ;;
		esac
	done
	echo $pins
}

# the kernel log since health_begin; all of it if that has been overwritten since
pg_log()
{
	dmesg | awk -v mark="$PG_MARK" '{ line[n++] = $0 } index($0, mark) { n = 0 }
		END { for (i = 0; i < n; i++) print line[i] }'
}

# the same without the stacks behind lines that a script says it expects, by PG_EXPECTED
pg_unexpected()
{
	pg_log | PG_EXPECTED=${PG_EXPECTED:-} awk 'BEGIN { expected = ENVIRON["PG_EXPECTED"] }
		expected != "" && $0 ~ expected { skip = 60 }
		skip <= 0 { print }
		/<\/TASK>/ { skip = 0 }
		{ skip-- }'
}

pg_pins_are_back()
{
	[ "$(pg_pins)" = "$PG_PINS" ]
}

# huge pages of the pool that mappings have reserved
pg_reserved()
{
	awk '$1 == "HugePages_Rsvd:" { print $2 }' /proc/meminfo
}

# health_end - the tests of PG_HEALTH
health_end()
{
	local log='' scans=${PG_SCANS:+2}

	# A scan says in the log what it found: not what is younger than five seconds, and nothing
	# that has changed since the scan before it, as all that is new has.
	while ((scans-- > 0)); do
		sleep 6
		echo scan >$PG_LEAKS && continue
		ktap_print_msg "${log:=kmemleak has given up}"
	done
	log+=$(pg_unexpected | grep -E "$PG_COMPLAINTS")
	[ -z "$log" ] || { pg_unexpected | grep -E -A 25 "$PG_COMPLAINTS"; cat $PG_LEAKS; } 2>/dev/null |
		head -n 90 | sed 's/^/# /'
	pg_result "${PG_HEALTH[0]}" $((${#log} > 0))
	if pg_wait 10 pg_pins_are_back; then
		pg_result "${PG_HEALTH[1]}" "$KSFT_PASS"
	else
		ktap_print_msg "$(pg_pins) pins held, $PG_PINS before"
		pg_result "${PG_HEALTH[1]}" "$KSFT_FAIL"
	fi
	# The kernel can lose count of them; a later test that needs the whole pool should not wonder.
	[ "$(pg_reserved)" = "$PG_RESERVED" ] ||
		ktap_print_msg "$(pg_reserved) huge pages are reserved, $PG_RESERVED before"
}

#
# Memory
#

# pg_set FILE VALUE - and back at the end
pg_set()
{
	local old

	[ -w "$1" ] || return
	old=$(sed 's/.*\[\(.*\)\].*/\1/' "$1")
	echo "$2" >"$1" && pg_undo pg_write "$old" "$1"
}

pg_write()
{
	echo "$1" >"$2"
}

# pg_huge_pages NUMBER - in the pool, or says that there are fewer: where the pool is empty, a write
# takes the page from the child instead of a copy for the parent, and a control loses nothing
pg_huge_pages()
{
	local pool=/proc/sys/vm/nr_hugepages

	pg_set $pool "$1" || return
	[ "$(<$pool)" -ge "$1" ] && return
	pg_write 1 /proc/sys/vm/compact_memory
	pg_write "$1" $pool
	[ "$(<$pool)" -ge "$1" ] || ktap_print_msg "only $(<$pool) of $1 huge pages"
}

# pg_memory HUGE_PAGES - huge pages of both kinds, and swap on zram for MADV_PAGEOUT
pg_memory()
{
	local zram

	pg_huge_pages "$1"
	grep -q '\[never\]' /sys/kernel/mm/transparent_hugepage/enabled &&
		pg_set /sys/kernel/mm/transparent_hugepage/enabled madvise
	[ "$(wc -l </proc/swaps)" -gt 1 ] && return
	modprobe zram num_devices=0 2>/dev/null
	zram=$(cat /sys/class/zram-control/hot_add 2>/dev/null) || return
	pg_undo pg_write "$zram" /sys/class/zram-control/hot_remove
	echo 128M >"/sys/block/zram$zram/disksize" &&
		mkswap "/dev/zram$zram" >/dev/null 2>&1 && swapon "/dev/zram$zram" &&
		pg_undo swapoff "/dev/zram$zram"
}

PG_GROUP=

# pg_memory_cgroup - $PG_GROUP, of version 2 and ours; or says why not
pg_memory_cgroup()
{
	local root

	root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
	if [ -z "$root" ]; then
		root=$PG_TMP/cgroup
		mkdir "$root" && mount -t cgroup2 cgroup2 "$root" && pg_undo umount "$root" || return
	fi
	if ! grep -qw memory "$root/cgroup.subtree_control"; then
		pg_write +memory "$root/cgroup.subtree_control" &&
			pg_undo pg_write -memory "$root/cgroup.subtree_control" || return
	fi
	mkdir "$root/pin_guard_test.$$" && pg_undo rmdir "$root/pin_guard_test.$$" &&
		PG_GROUP=$root/pin_guard_test.$$
}

#
# Delays and mounts
#

# pg_delay MS - that, or more where processes take long (the median of some): reads over such a
# delay are to be in flight while they fork
pg_delay()
{
	local true start pace i

	true=$(type -P true)
	pace=$(for i in {1..9}; do
		start=${EPOCHREALTIME//[!0-9]/}
		"$true"
		echo $(((${EPOCHREALTIME//[!0-9]/} - start) / 40000))
	done | sort -n | sed -n 5p)
	echo "$(($1 * (pace < 1 ? 1 : pace > 8 ? 8 : pace)))"
}

# pg_mount TYPE DIRECTORY COMMAND... - COMMAND gets into the network namespace
pg_mount()
{
	"${@:3}" mount -t "$1" "$1" "$2" && pg_undo umount -l "$2"
}

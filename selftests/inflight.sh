#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the test scripts, after lib.sh: trouble with a server or the way to it, while the
# program inflight keeps reads in flight and forks. Scenarios run first without pin_guard.ko, then
# with it, and have to end the same way, except that nothing is lost with the module.
#
# The script has SCENARIOS, WHAT (their names in the log) and scenario(), which returns as a test
# does.
# shellcheck disable=SC2034,SC2154 # shared with the scripts

LIMIT=180	# seconds for a step of a scenario, on a slow machine; it hangs if it takes more

# scenarios_list - adds the names of the tests to ALL
scenarios_list()
{
	local name

	ALL+=("pin_guard loads")
	for name in "${SCENARIOS[@]}"; do
		ALL+=("control ${WHAT[$name]}" "protected ${WHAT[$name]}")
	done
	ALL+=("pin_guard unloads")
}

declare -A OUTCOME=()	# of a scenario's control
ROUND=
NAME=

say()
{
	ktap_print_msg "$ROUND ${WHAT[$NAME]}, $((SECONDS - START)) s: $*"
}

# fault READS LOST ERRNO - what a table can be made of
fault()
{
	ktap_print_msg "fault: ${WHAT[$NAME]}, $ROUND: runs=$1 lost=$2 errno=${3:-0}"
}

#
# The reads
#

# reads_open DIRECTORY [OPTION...] - the program that does them
reads_open()
{
	local dir=$1 to from

	shift
	coproc INFLIGHT { exec "$PG_HERE/inflight" "$@" "$dir/reads" 2>>"$PG_TMP/inflight"; }
	READS_PID=$INFLIGHT_PID
	disown "$READS_PID"	# or the shell reports its death
	# Copies, for the shell closes these in its subshells.
	exec {READS_TO}>&"${INFLIGHT[1]}" {READS_FROM}<&"${INFLIGHT[0]}"
	to=${INFLIGHT[1]} from=${INFLIGHT[0]}
	exec {to}>&- {from}<&-
	pg_undo kill -9 "$READS_PID"
	answer ready && READS=${ANSWER[1]}
}

reads_close()
{
	exec {READS_TO}>&- {READS_FROM}<&-
	READS_TO=
}

# await COMMAND... - until it succeeds
await()
{
	local deadline=$((SECONDS + LIMIT))

	until "$@"; do
		[ $SECONDS -lt $deadline ] || return
		pg_nap 0.1
	done
}

# answer WORD - of the program, into ANSWER
answer()
{
	ANSWER=()
	read -rt "$LIMIT" -a ANSWER <&"$READS_FROM" && [ "${ANSWER[0]}" = "$1" ] && return
	[[ "${ANSWER[*]}" = "1..0 # SKIP "* ]] && say "${ANSWER[*]:2}" && return "$KSFT_SKIP"
	say "expected $1, came: ${ANSWER[*]:-nothing within $LIMIT s}"
	return 1
}

# ask COMMAND WORD
ask()
{
	echo "$1" >&"$READS_TO" && answer "$2"
}

# all_in_flight - no read has ended
all_in_flight()
{
	ask count flying || return
	[ "${ANSWER[1]}" = "$READS" ] && return
	say "expected $READS reads in flight, came ${ANSWER[1]}"
	return 1
}

# hold - a fork comes back while the reads are in flight, and the module stays, at once
hold()
{
	local said

	ask fork forked || return
	say "fork took ${ANSWER[1]} ms"
	all_in_flight || return
	[ "$ROUND" = protected ] || return 0
	ask rmmod rmmod || return
	if [ "${ANSWER[1]}" != EAGAIN ]; then
		say "delete_module() with reads in flight: expected EAGAIN, came ${ANSWER[1]}"
		return 1
	fi
	said=$(rmmod pin_guard 2>&1)
	if [[ $said != *"in use"* ]]; then
		say "rmmod with reads in flight: expected 'in use', came ${said:-nothing}"
		return 1
	fi
	if [ "$(pg_counter windows_open)" -lt "$READS" ]; then
		say "expected $READS windows, came $(pg_counter windows_open)"
		return 1
	fi
	all_in_flight
}

# reads_end right | reads_end fails ERRNO... - all reads end, and the outcome is the control's
reads_end()
{
	local failed lost wrong errors

	ask wait ended || return
	failed=${ANSWER[2]} lost=${ANSWER[3]} wrong=${ANSWER[4]} errors=${ANSWER[*]:5}
	fault "$READS" "$lost" "${errors// /,}"
	if [ "$wrong" != 0 ]; then
		say "$wrong reads gave something else:"
		sed 's/^/# /' "$PG_TMP/inflight"
		return 1
	fi
	case $1 in
	right)
		if [ -n "$errors" ]; then
			say "expected no error, came $errors"
			return 1
		fi
		;;
	fails)
		if [ "$failed" != "$READS" ] || [[ " ${*:2} " != *" $errors "* ]]; then
			say "expected that $READS reads fail with ${*:2}, came" \
				"$failed with ${errors:-no error}"
			return 1
		fi
		;;
	esac
	outcome "errno ${errors:-none}" || return
	[ "$1" != right ] || kept "$lost"
}

# outcome TEXT - must be that of the control
outcome()
{
	if [ "$ROUND" = control ]; then
		OUTCOME[$NAME]+="$1; "
		return
	fi
	SEEN+="$1; "
	[[ ${OUTCOME[$NAME]} == "$SEEN"* ]] && return
	say "expected as without the module: ${OUTCOME[$NAME]} came: $SEEN"
	return 1
}

# kept LOST - what the control loses the module keeps
kept()
{
	LOST=$1
	[ "$ROUND" = control ] || [ "$1" = 0 ] && return
	say "expected no loss, came $1 reads lost"
	return 1
}

read_again()
{
	ask submit submitted && ask wait ended || return
	[ "${ANSWER[*]:2}" = "0 0 0" ] && return
	say "reading again: expected 0 0 0, came ${ANSWER[*]:2}"
	return 1
}

no_window_is_open()
{
	[ "$ROUND" = control ] || [ "$(pg_counter windows_open)" = 0 ]
}

#
# The scenarios
#

is_gone()
{
	local stat

	! read -r stat 2>/dev/null <"/proc/$1/stat" || [[ $stat == *") Z "* ]]
}

# in a state of its own. With the module the outcome is compared to that of the control.
run()
{
	local mark=${#PG_UNDO[@]} rc

	pg_any "* ${WHAT[$NAME]}" || return 0
	SEEN='' LOST='' START=$SECONDS
	: >"$PG_TMP/inflight"
	scenario
	rc=$?
	[ -z "${READS_TO:-}" ] || reads_close
	pg_cleanup "$mark"
	await is_gone "${READS_PID:-0}"
	if [ $rc = 0 ] && [ "$ROUND $LOST" = "control 0" ]; then
		say "no loss: this kernel keeps the data by itself"
		rc=$KSFT_SKIP
	elif [ $rc = 0 ] && [ "$ROUND" = protected ] && ! await no_window_is_open; then
		say "$(pg_counter windows_open) windows are open"
		rc=1
	fi
	pg_result "$ROUND ${WHAT[$NAME]}" "$rc" "$((SECONDS - START)) s"
}

# scenarios - all that are wanted, twice
scenarios()
{
	for ROUND in control protected; do
		if [ $ROUND = protected ] && ! pg_have pin_guard; then
			pg_skip "pin_guard loads" "no pin_guard.ko"
			for NAME in "${SCENARIOS[@]}"; do
				pg_skip "protected ${WHAT[$NAME]}" "no pin_guard.ko"
			done
			pg_skip "pin_guard unloads" "no pin_guard.ko"
			continue
		fi
		[ $ROUND = control ] || pg_check "pin_guard loads" pg_load pin_guard
		for NAME in "${SCENARIOS[@]}"; do
			run
		done
		[ $ROUND = control ] || pg_check "pin_guard unloads" pg_unload_within 20 pin_guard
	done
}

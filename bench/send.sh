#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a send costs, over each link but loopback: send.sh SAMPLES PROGRAM, for run.sh.
#
# PIN_GUARD_SEND_ROUNDS    rounds [5]
# PIN_GUARD_SEND_RATE      MiB per second, of which the CPU time is measured [32]
# shellcheck disable=SC2153 # LOCAL_V4 and the like are net.sh's

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../selftests/net.sh
. "$HERE/../selftests/net.sh"

net_init "$@"

ROUNDS=${PIN_GUARD_SEND_ROUNDS:-5}
RATE=${PIN_GUARD_SEND_RATE:-32}
PORT=20809

PG_TMP=$(mktemp -d) && pg_undo rm -rf "$PG_TMP"
load pin_guard pin_guard_tx

# up LINK - as net_up. The model of bnx2 takes 100 ms of real time to bring up a link. A clock that
# counts instructions jumps to the next timer while the processor is idle, so ping would give up
# before that. So the processor is not idle.
up()
{
	local busy='' status=0

	if [ "$1" = bnx2 ]; then
		chrt --idle 0 bash -c 'while :; do :; done' &
		busy=$!
	fi
	net_up "$1" >"$PG_TMP/why" || status=1
	[ -z "$busy" ] || { kill "$busy"; wait "$busy"; } 2>/dev/null
	return $status
}

for link in $(net_links); do
	[ "$link" != lo ] || continue
	if ! up "$link"; then
		[ "$link" = bnx2 ] || fail "$link: $(tail -n 1 "$PG_TMP/why")"	# bnx2 is not in each VM
		echo "$link: left out: $(tail -n 1 "$PG_TMP/why")" >&2
		net_down
		continue
	fi
	net_push "$PROGRAM" || fail "cannot copy $PROGRAM to the other end of $link"
	for size in 1024 4096 16384 65536 1048576; do
		net_remote "$NET_BIN/send" sink $PORT &
		measure "$NET_NAME" "${REMOTE_V4:-$REMOTE_V6}" $PORT "$size" "$RATE" "$ROUNDS"
		wait $! || fail "the other end of $NET_NAME"
	done
	echo "$link: $SECONDS s" >&2
	net_down
done
pg_unload pin_guard_tx pin_guard

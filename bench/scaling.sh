#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Windows, pins and sends on one processor, and on two at once: scaling.sh SAMPLES PROGRAM SEND, for
# run.sh.
# shellcheck disable=SC2153 # LOCAL_V4 and the like are net.sh's

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../selftests/net.sh
. "$HERE/../selftests/net.sh"

net_init "$@"

SEND=$3
PORT=20811

PG_TMP=$(mktemp -d) && pg_undo rm -rf "$PG_TMP"
load pin_guard pin_guard_bench pin_guard_tx

for where in one-mm two-mms; do
	measure scaling $where 30
done
echo "windows and pins: $SECONDS s" >&2
for link in lo veth; do
	net_up $link >"$PG_TMP/why" || fail "$link: $(tail -n 1 "$PG_TMP/why")"
	# A sender and its sink have one processor, where their softirqs run, too.
	sinks=()
	for cpu in 0 1; do
		net_remote taskset -c $cpu "$SEND" sink $((PORT + cpu)) &
		sinks+=($!)
	done
	"$SEND" scaling $link "$REMOTE_V4" $PORT 4096 15 >>"$SAMPLES" || fail "scaling, $link"
	for sink in "${sinks[@]}"; do
		wait "$sink" || fail "a sink on $link"
	done
	echo "$link: $SECONDS s" >&2
	net_down
done
pg_unload pin_guard_tx pin_guard_bench pin_guard

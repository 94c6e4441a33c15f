#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a send costs, over each link but loopback: send.sh SAMPLES PROGRAM, for run.sh.
#
# PIN_GUARD_SEND_ROUNDS    rounds [5]
# PIN_GUARD_SEND_RATE      MiB per second, of which the CPU time is measured [32]
# shellcheck disable=SC2153 # PG_RUN is lib.sh's, LOCAL_V4 and the like are net.sh's

HERE=$(dirname "$(readlink -f "$0")")
: "${KSFT:=${KDIR:+$KDIR/tools/testing/selftests}}"
export KSFT
# shellcheck source-path=SCRIPTDIR source=../selftests/lib.sh
. "$HERE/../selftests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../selftests/net.sh
. "$HERE/../selftests/net.sh"

net_init "$@"

SAMPLES=$1
SEND=$2
ROUNDS=${PIN_GUARD_SEND_ROUNDS:-5}
RATE=${PIN_GUARD_SEND_RATE:-32}
PORT=20809

fail()
{
	echo "pin_guard: bench: $*" >&2
	exit 1
}

trap pg_cleanup EXIT
mkdir -p "$PG_RUN"
PG_TMP=$(mktemp -d) && pg_undo rm -rf "$PG_TMP"
pg_unload pin_guard_tx pin_guard_dma pin_guard_bench pin_guard || fail "pin_guard is in use"
for module in pin_guard pin_guard_tx; do
	pg_load $module || fail "$module does not load"
done

for link in $(net_links); do
	[ "$link" != lo ] || continue
	if ! net_up "$link" >"$PG_TMP/why"; then
		[ "$link" = bnx2 ] || fail "$link: $(tail -n 1 "$PG_TMP/why")"	# bnx2 is not in each VM
		echo "$link: left out: $(tail -n 1 "$PG_TMP/why")" >&2
		net_down
		continue
	fi
	net_push "$SEND" || fail "cannot copy $SEND to the other end of $link"
	for size in 1024 4096 16384 65536 1048576; do
		net_remote "$NET_BIN/send" sink $PORT &
		"$SEND" "$NET_NAME" "${REMOTE_V4:-$REMOTE_V6}" $PORT "$size" "$RATE" "$ROUNDS" \
			>>"$SAMPLES" || fail "$NET_NAME, $size bytes"
		wait $! || fail "the other end of $NET_NAME"
	done
	echo "$link: $SECONDS s" >&2
	net_down
done
pg_unload pin_guard_tx pin_guard

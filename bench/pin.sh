#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a pin guard costs, and what pins cost a fork: pin.sh SAMPLES PROGRAM, for run.sh.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

load pin_guard pin_guard_dma pin_guard_bench

measure pin 9
measure inflight 4k 15
measure inflight thp 15
echo "pins: $SECONDS s" >&2
pg_unload pin_guard_bench pin_guard_dma pin_guard

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Measures in the running machine, which should do nothing else: run.sh OUT
# leaves OUT/samples, OUT/bench.txt and OUT/bench.json.  tools/bench has built the programs there,
# and runs this in the VM.
#
# PIN_GUARD_BENCH      what: module, pin, windows, send, scaling, or some ["module pin windows send"];
#                      see *.sh
# PIN_GUARD_MODULES    where the modules are, as for the tests

set -e -o pipefail
HERE=$(dirname "$(readlink -f "$0")")
OUT=$1

: >"$OUT/samples"
for part in ${PIN_GUARD_BENCH:-module pin windows send}; do
	case $part in
	module | pin | windows) programs=("$OUT/bench") ;;
	send) programs=("$OUT/send") ;;
	scaling) programs=("$OUT/bench" "$OUT/send") ;;
	*) echo "pin_guard: bench: PIN_GUARD_BENCH=$part; fix: module, pin, windows, send, scaling" >&2; exit 2 ;;
	esac
	"$HERE/$part.sh" "$OUT/samples" "${programs[@]}"
done
"$HERE/report" "$OUT/samples" "$OUT/bench.json" "$("$OUT/bench" clock)" "$(uname -r)" |
	tee "$OUT/bench.txt"

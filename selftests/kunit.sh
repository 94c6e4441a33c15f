#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The KUnit suites of pin_guard.ko, which it has where CONFIG_KUNIT=y: what needs neither hardware
# nor a process.

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

KUNIT=/sys/kernel/debug/kunit
SUITES=(charge folio in_use pin pins send skb window window_follow window_mm)

pg_start "pin_guard loads" "the suites are those that are known here" "${SUITES[@]}" \
	"pin_guard unloads"
pg_have pin_guard || pg_skip_all "no pin_guard.ko: set PIN_GUARD_MODULES"
[ -d /sys/module/kunit ] || pg_skip_all "this kernel has no KUnit"
[ -d "$KUNIT" ] || pg_skip_all "this kernel has no CONFIG_KUNIT_DEBUGFS"
pg_unload_all

# the suites that came with the module
suites()
{
	(cd "$KUNIT" && printf '%s\n' pin_guard_*)
}

# suite NAME - runs it anew, and shows what KUnit says
suite()
{
	local dir=$KUNIT/pin_guard_$1

	echo run >"$dir/run" && cat "$dir/results" || return
	# The last line is ok of nothing, too.
	tail -n 1 "$dir/results" | grep -qx "ok 1 pin_guard_$1" &&
		[ "$(grep '^    ok ' "$dir/results" | grep -vc '# SKIP')" = \
			"$(sed -n 's/^    1\.\.//p' "$dir/results")" ]
}

health_begin
pg_load pin_guard
loaded=$?
if [ $loaded = 0 ] && [ "$(suites)" = "pin_guard_*" ]; then
	pg_unload pin_guard
	pg_skip_all "pin_guard.ko has no suites: built without CONFIG_KUNIT=y, or kunit.enable=0"
fi
pg_check "pin_guard loads" test $loaded = 0
pg_check "the suites are those that are known here" \
	test "$(suites)" = "$(printf 'pin_guard_%s\n' "${SUITES[@]}")"
for s in "${SUITES[@]}"; do
	pg_run "$s" suite "$s"
done
# What a workqueue lets go of has a reference until then.
pg_check "pin_guard unloads" pg_unload_within 10 pin_guard 2>/dev/null

health_end
pg_finish

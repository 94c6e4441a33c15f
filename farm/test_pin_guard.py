# SPDX-License-Identifier: GPL-2.0
"""labgrid: switches the machine on, runs the suite on it, and fails if a test fails.

PIN_GUARD_FARM_TESTS, PIN_GUARD_FARM_SKIP  TESTS and SKIP of farm/run  [quick, nothing]
PIN_GUARD_FARM_RESULTS                     a file for the results, a line each
"""

import os
import re
import shlex
from pathlib import Path

import pytest

DIRECTORY = "/opt/kselftests"
ARTEFACTS = Path(__file__).parent.parent / "out" / "farm"
LIMIT = 3 * 3600


@pytest.fixture
def shell(target):
    """What runs commands on the machine: its console, or ssh where the place has it."""
    power = target.get_driver("PowerProtocol", activate=False)
    target.activate(power)
    power.cycle()
    console = target.get_driver("ShellDriver")
    ssh = target.get_driver("SSHDriver", activate=False) if any(
        type(driver).__name__ == "SSHDriver" for driver in target.drivers) else None
    if ssh:
        target.activate(ssh)
        ssh.run_check(f"mkdir -p {DIRECTORY}")
        for name in ("kselftest.tar.xz", "farm.tar.xz"):
            ssh.put(str(ARTEFACTS / name), "/tmp/")
            ssh.run_check(f"tar -xJf /tmp/{name} -C {DIRECTORY}")
    yield ssh or console
    power.off()


def test_suite(shell):
    tests = os.environ.get("PIN_GUARD_FARM_TESTS", "quick")
    skip = os.environ.get("PIN_GUARD_FARM_SKIP", "")
    output = shell.run(
        f"TESTS={shlex.quote(tests)} SKIP={shlex.quote(skip)} {DIRECTORY}/farm/run {DIRECTORY}",
        timeout=LIMIT)[0]
    results = [match.groups() for line in output
               if (match := re.search(r"pin_guard-result: (\S+) (pass|fail|skip)\s*$", line))]
    if file := os.environ.get("PIN_GUARD_FARM_RESULTS"):
        Path(file).write_text("".join(f"{name} {result}\n" for name, result in results))
    print("\n".join(output))
    assert results, "the suite reports nothing"
    assert not [name for name, result in results if result == "fail"]

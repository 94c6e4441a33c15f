#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# ceph_mon.py CONF: commands for the monitor, a line of JSON each; for each a line with its errno
# (0 if it went well) and what the monitor has answered. One process for all of them: to start one
# takes many seconds where there is no KVM.
#
# {"await": "up:active", "prefix": "mds stat"} asks until the text is in the answer.

import json
import sys
import time

import rados

TRIES = 1200  # of 0.1 s: an await then says ETIMEDOUT


def ask(cluster, command):
    wanted = command.pop("await", "")
    for _ in range(TRIES if wanted else 1):
        code, answer, error = cluster.mon_command(json.dumps(command), b"")
        text = (answer.decode() + error).replace("\n", " ")
        if code or wanted in text:
            return -code, text
        time.sleep(0.1)
    return 110, text


with rados.Rados(conffile=sys.argv[1], name="client.admin") as mon:
    for line in sys.stdin:
        print(*ask(mon, json.loads(line)), flush=True)

#!/usr/bin/env python3
"""A rank that falls asleep inside an all-to-all ends all ranks with exit code 6, and is named.

check_hanging_ranks.py PROGRAM LAUNCHER...   where LAUNCHER... is mpirun with its options, '{ranks}' for their number
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

PROGRAM = ""
LAUNCHER: list[str] = []
TIMEOUT = 2
SECONDS = 30.0  # generous: the machine may be busy; a hang lasts for an hour
RANKS = 4
HOST = re.escape(socket.gethostname().split(".")[0])
PLACE = r"(\w+(?:, layer \d+)?), step 3"


class Hangs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="vitrail-hang-")
        self.addCleanup(folder.cleanup)
        self.run_dir = Path(folder.name)

    def run_program(self, sleeper):
        started = time.monotonic()
        command = [*(part.format(ranks=RANKS) for part in LAUNCHER), PROGRAM, str(sleeper), str(self.run_dir)]
        done = subprocess.run([*command, str(TIMEOUT)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
        self.assertLess(time.monotonic() - started, SECONDS, done.stdout)
        return done.returncode, done.stdout

    def test_every_rank_says_where_it_is_and_the_sleeper_is_named(self):
        sleeper = 1
        code, said = self.run_program(sleeper)
        self.assertEqual(code, 6, said)
        for rank in range(RANKS):
            place = re.findall(rf"hanging-rank: rank {rank}/{RANKS} on {HOST}: hang: in {PLACE} for [\d.]+ s, since "
                               r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(collective \d+\)", said)
            self.assertEqual(len(place), 1, said)
            if rank == sleeper:
                self.assertRegex(place[0], r"^start_all_to_all, layer \d+$")
            else:
                self.assertNotIn("start_all_to_all", place[0])
        errors = re.findall(r"hanging-rank: error: .*", said)
        self.assertEqual(len(errors), 1, said)
        self.assertRegex(errors[0], rf"error: no progress for [\d.]+ s: rank 1 on {HOST} did not arrive, it is in "
                                    r"start_all_to_all, layer \d+, step 3 \(.*rank.* 0.* in .*\)")

    def test_what_ranks_said_stays_in_the_run_directory(self):
        code, said = self.run_program(3)
        self.assertEqual(code, 6, said)
        folder, = self.run_dir.glob("hang-*")
        self.assertIn(str(folder), said)
        ranks = [json.loads((folder / f"rank-{rank:05}.json").read_text()) for rank in range(RANKS)]
        self.assertEqual([rank["step"] for rank in ranks], [3] * RANKS)
        least = min(rank["collectives"] for rank in ranks)
        self.assertEqual([rank["rank"] for rank in ranks if rank["collectives"] == least], [3])

    def test_nobody_sleeps_and_nothing_is_left(self):
        code, said = self.run_program(-1)
        self.assertEqual(code, 0, said)
        self.assertEqual(os.listdir(self.run_dir), [])


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv[1])
    LAUNCHER = sys.argv[2:]
    unittest.main(argv=sys.argv[:1], verbosity=2)

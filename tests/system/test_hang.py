"""A job of which one rank is stopped ends by itself, and says which."""

import os
import re
import signal
import subprocess
import time
import unittest

import programs
from programs import HANG, MODEL, USAGE, Programs, options, processes_naming

TIMEOUT = 3


class Hang(Programs):
    def start(self, run, **settings):
        merged = {name.replace("-", "_"): value for name, value in MODEL.items()}
        merged.update({"data": self.data, "run_dir": run, "expert_parallel": 2, "steps": 1000000, "save_every": 20},
                      **settings)
        return subprocess.Popen(self.command(2, "vitrail-train", options(**merged)), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ranks_after_a_checkpoint(self, run, mpirun):
        """The processes of both ranks."""
        end = time.monotonic() + 60
        while not (run / "checkpoints" / "latest").exists():
            self.assertIsNone(mpirun.poll(), "the run ended before it was stopped")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        ranks = [pid for pid, name in processes_naming(str(run)).items() if name == "vitrail-train"]
        self.assertEqual(len(ranks), 2, "the run ended before it was stopped")
        return ranks

    def test_a_stopped_rank_ends_the_job_and_is_named(self):
        run = self.new_run()
        with self.start(run, hang_timeout=TIMEOUT) as mpirun:
            ranks = self.ranks_after_a_checkpoint(run, mpirun)
            stopped = time.monotonic()
            os.kill(max(ranks), signal.SIGSTOP)
            said, _ = mpirun.communicate(timeout=60)
        self.expect_all_gone(said)
        self.assertLess(time.monotonic() - stopped, TIMEOUT + 25, said)
        self.assertEqual(mpirun.returncode, HANG, said)
        job = programs.Job(mpirun.returncode, said)
        self.assertEqual(len(job.errors), 1, said)
        silent = re.search(r"error: no progress for .*: rank ([01]) on \S+ does not answer: stopped, dead, or cut off",
                           job.errors[0])
        self.assertIsNotNone(silent, said)
        other = 1 - int(silent.group(1))
        self.assertRegex(job.errors[0], rf"\(rank {other} is in \w+.*, step \d+\)")
        self.assertRegex(said, rf"rank {other}/2 on \S+: hang: in \w+.*, step \d+ for .*, since .* UTC")

    def test_a_job_that_was_stopped_as_a_whole_goes_on(self):
        run = self.new_run()
        with self.start(run, hang_timeout=TIMEOUT, steps=1500, save_every=100) as mpirun:
            ranks = self.ranks_after_a_checkpoint(run, mpirun)
            for sent, pause in ((signal.SIGSTOP, TIMEOUT + 2), (signal.SIGCONT, 0)):
                for rank in ranks:
                    os.kill(rank, sent)
                time.sleep(pause)
            said, _ = mpirun.communicate(timeout=60)
        self.assertEqual(mpirun.returncode, 0, said)
        self.assertNotIn("hang: ", said)
        self.assertEqual(list(run.glob("hang-*")), [])

    def test_a_time_that_is_none_is_refused(self):
        self.refused(USAGE, "--hang-timeout -1", "seconds are expected.*", hang_timeout=-1)


if __name__ == "__main__":
    programs.main()

"""A rank that dies takes the others with it, and the run goes on from its last checkpoint to the same bits."""

import os
import signal
import subprocess
import time
import unittest

import programs
from programs import MODEL, Programs, options, processes_naming

STEPS = 60


class Survival(Programs):
    def start_and_kill(self, run, victim="rank", **settings):
        """Starts a run on 2 ranks and kills one of them, or mpirun, once a checkpoint is there: (exit code, what was
        said)."""
        merged = {name.replace("-", "_"): value for name, value in MODEL.items()}
        merged.update({"data": self.data, "run_dir": run, "expert_parallel": 2}, **settings)
        with subprocess.Popen(
            self.command(2, "vitrail-train", options(**merged)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as mpirun:
            latest = run / "checkpoints" / "latest"
            end = time.monotonic() + 60
            while not latest.exists():
                self.assertIsNone(mpirun.poll(), "the run ended before it was killed")
                self.assertLess(time.monotonic(), end)
                time.sleep(0.02)
            ranks = [pid for pid, name in processes_naming(str(run)).items() if name == "vitrail-train"]
            self.assertEqual(len(ranks), 2)
            killed = time.monotonic()
            os.kill(max(ranks) if victim == "rank" else mpirun.pid, signal.SIGKILL)
            said, _ = mpirun.communicate(timeout=60)
        self.expect_all_gone(said)
        self.assertLess(time.monotonic() - killed, 10, said)
        return mpirun.returncode, said

    def test_a_killed_rank_ends_all_and_resuming_gives_the_same_bits(self):
        straight = self.new_run()
        self.train(1, run=straight, steps=STEPS, digest=True)
        self.assertEqual([line["step"] for line in self.metrics(straight)], list(range(1, STEPS + 1)))

        run = self.new_run()
        settings = {"steps": STEPS, "save_every": 3}
        code, said = self.start_and_kill(run, **settings)
        self.assertNotEqual(code, 0, said)
        saved = self.latest_step(run)
        self.assertLess(saved, STEPS, "it was killed too late")
        job = self.train(2, run=run, resume=True, digest=True, **settings)
        self.assertIn("resumed from", job.said)
        self.assertIn(self.summary(straight)["digest"], job.said)
        self.assertEqual(self.summary(run)["digest"], self.summary(straight)["digest"])
        self.assertEqual(self.metrics(run), self.metrics(straight))
        self.assertEqual([path.name for path in (run / "checkpoints").glob("*.tmp")], [])

    def test_ranks_do_not_outlive_mpirun(self):
        run = self.new_run()
        code, said = self.start_and_kill(run, victim="mpirun", steps=100000, save_every=100)
        self.assertNotEqual(code, 0, said)

    def test_another_seed_gives_another_digest(self):
        runs = [self.new_run() for _ in range(3)]
        for run, seed in zip(runs, (0, 0, 1)):
            self.train(0, run=run, steps=3, seed=seed, digest=True)
        first, same, other = (self.summary(run)["digest"] for run in runs)
        self.assertEqual(first, same)
        self.assertNotEqual(first, other)
        self.assertNotEqual(self.metrics(runs[0]), self.metrics(runs[2]))

    def test_a_run_that_is_done_stays_as_it_is(self):
        run = self.new_run()
        self.train(0, run=run, digest=True)
        before = programs.content_of(run)
        self.assertIn("nothing to do: all 6 steps are done", self.train(2, run=run, resume=True).said)
        self.assertEqual(programs.content_of(run), before)

    def test_a_line_that_a_crash_cut_short_is_written_again(self):
        run = self.new_run()
        self.train(0, run=run, stop_after=2)
        whole = self.metrics(run)
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step":3,"images":16,"cor')
        self.train(0, run=run, resume=True)
        self.assertEqual(self.metrics(run)[:2], whole)
        self.assertEqual([line["step"] for line in self.metrics(run)], [1, 2, 3, 4, 5, 6])


if __name__ == "__main__":
    programs.main()

"""Jobs that are told to stop, by a signal, the clock or a file: they save, return 85, and the next one goes on to the
same bits. Saves in the background that fail, or are killed, lose no more than themselves."""

import json
import os
import signal
import subprocess
import time
import unittest

import programs
from programs import CHECKPOINT, MODEL, REQUEUE, USAGE, Programs, options, processes_naming

STEPS = 12_000  # more than a job does before it looks for its stop file: 4,700 a second on a fast machine
ENDLESS = 10_000_000
# Files of at most 64 KiB, as on a full disk: less than a checkpoint's. The ranks talk over sockets, whose buffers are no
# files.
FULL_DISK = ["bash", "-c", 'trap "" XFSZ; ulimit -f 64; exec "$@"', "bash"]
SOCKETS = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_pml": "ob1"}


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    try:
        status = (programs.Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


class Stopping(Programs):
    def begin(self, run, ranks=2, wrapper=(), environment=None, **settings):
        """Starts a run and does not wait for it."""
        merged = {name.replace("-", "_"): value for name, value in MODEL.items()}
        merged.update({"data": self.data, "run_dir": run, "expert_parallel": ranks, "resume": True}, **settings)
        command = self.command(ranks, "vitrail-train", options(**merged))
        place = command.index(str(programs.programs / "vitrail-train"))
        command[place:place] = wrapper
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **(environment or {})},
        )

    def until(self, condition, job):
        """Waits for a condition of a running job; its value."""
        end = time.monotonic() + 60
        while not (value := condition()):
            if job.poll() is not None:
                self.fail(f"the job ended early with {job.returncode}\n{job.stdout.read()}")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.005)
        return value

    def ranks_of(self, run, job, number=2):
        def found():
            pids = [pid for pid, name in processes_naming(f"{run}").items() if name == "vitrail-train"]
            return sorted(pids) if len(pids) == number else None

        return self.until(found, job)

    def lines(self, run):
        metrics = run / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def more_steps(self, run, job, steps=20):
        before = self.lines(run)
        self.until(lambda: self.lines(run) >= before + steps, job)

    def end(self, job, code, run=None):
        said, _ = job.communicate(timeout=60)
        self.expect_all_gone(said)
        self.assertEqual(job.returncode, code, said)
        if run is not None and code == REQUEUE:
            step = self.latest_step(run)
            self.assertIn(f"stopped at step {step}", said)
            self.assertEqual(self.lines(run), step, "steps after the checkpoint were done, or some are missing")
            self.assertFalse((run / "summary.json").exists(), "it says that all steps are done")
        return said

    def straight(self, steps):
        """The undisturbed run, once."""
        run = self.folder / f"straight-{steps}"
        if not run.exists():
            self.train(2, run=run, steps=steps, digest=True)
        return run

    def expect_same_as_straight(self, run, steps):
        straight = self.straight(steps)
        self.assertEqual(self.summary(run)["digest"], self.summary(straight)["digest"])
        self.assertEqual(self.metrics(run), self.metrics(straight))

    def test_a_chain_of_stopped_jobs_gives_the_bits_of_one(self):
        run = self.new_run()

        def told(number, victim=0, steps=20, save_every=0):
            job = self.begin(run, steps=STEPS, save_every=save_every)
            pid = self.ranks_of(run, job)[victim]
            if steps:
                self.more_steps(run, job, steps)
            else:
                self.until(lambda: catches(pid, number), job)
            os.kill(pid, number)
            said = self.end(job, REQUEUE, run)
            self.assertIn(f"({signal.Signals(number).name}), which is saved; exit code 85", said)
            return said

        told(signal.SIGUSR1, steps=0)  # while MPI starts: before the first step
        self.assertEqual(self.latest_step(run), 0)
        told(signal.SIGTERM)
        told(signal.SIGUSR1, victim=1)
        told(signal.SIGUSR2, victim=1, save_every=7)  # often while a save is in flight
        told(signal.SIGHUP, save_every=7)

        job = self.begin(run, steps=STEPS)  # one signal after the other, to all
        pids = self.ranks_of(run, job)
        self.more_steps(run, job)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        self.assertIn("exit code 85", self.end(job, REQUEUE, run))

        job = self.begin(run, steps=STEPS)  # mpirun hands USR1 on
        self.more_steps(run, job)
        job.send_signal(signal.SIGUSR1)
        self.end(job, REQUEUE, run)

        job = self.begin(run, steps=STEPS)
        self.more_steps(run, job)
        (run / "stop").touch()
        self.assertIn(f"({run}/stop), which is saved", self.end(job, REQUEUE, run))
        self.assertFalse((run / "stop").exists())

        self.assertLess(self.latest_step(run), STEPS, "the chain was too slow for its number of steps")
        self.train(1, run=run, steps=STEPS, resume=True, digest=True)
        self.expect_same_as_straight(run, STEPS)
        records = [json.loads(path.read_text()) for path in sorted((run / "jobs").glob("*.json"))]
        self.assertEqual([record["job"] for record in records], list(range(1, 10)))
        self.assertEqual(records[1]["end"]["stopped"], "SIGTERM")
        self.assertEqual(records[8]["layout"]["ranks"], 1)
        self.assertEqual(self.summary(run)["all_jobs"]["steps"], STEPS)
        self.assertEqual(self.summary(run)["all_jobs"]["ended"], 9)

    def test_the_clock(self):
        run = self.new_run()
        began = time.monotonic()
        job = self.begin(run, steps=ENDLESS, time_limit="0:12")
        said = self.end(job, REQUEUE, run)
        self.assertLess(time.monotonic() - began, 14)
        self.assertGreater(self.latest_step(run), 0)
        self.assertRegex(said, "time    until .*, says --time-limit 0:12")
        self.assertRegex(said, "stopped at step .*the time is up at .*, says --time-limit 0:12")
        ends = int(time.time()) + 12
        job = self.begin(run, steps=ENDLESS, environment={"SLURM_JOB_END_TIME": str(ends)})
        self.assertIn("says SLURM_JOB_END_TIME", self.end(job, REQUEUE, run))
        self.assertLess(time.time(), ends + 2)

    def test_a_wrong_time_limit(self):
        self.refused(USAGE, "'soon' is no time", advice="A number alone.*", time_limit="soon")

    def test_saves_by_the_clock(self):
        run = self.new_run()
        job = self.begin(run, steps=ENDLESS, save_minutes=0.005)
        metrics = run / "metrics.jsonl"
        self.until(lambda: metrics.exists() and '"checkpoint"' in metrics.read_text(), job)
        os.kill(self.ranks_of(run, job)[0], signal.SIGTERM)
        said = self.end(job, REQUEUE, run)
        self.assertRegex(said, r"saved   step \d+: 0.1 MiB in .* MiB/s\); the steps stalled for [\d.]+ s")
        times = [json.loads(line)["time"] for line in metrics.read_text().splitlines()]
        saves = [time["checkpoint"] for time in times if "checkpoint" in time]
        self.assertGreater(len(saves), 0)
        self.assertEqual(set(saves[0]), {"step", "bytes", "seconds", "bytes_per_s", "stall_s", "data_wait_s"})

    def test_a_stop_that_cannot_be_saved_is_a_failure(self):
        run = self.new_run()
        self.train(2, run=run, steps=ENDLESS, stop_after=2)
        before = programs.content_of(run / "checkpoints")
        job = self.begin(run, steps=ENDLESS, log_every=100, wrapper=FULL_DISK, environment=SOCKETS)
        self.until(lambda: self.lines(run) > 2, job)
        os.kill(self.ranks_of(run, job)[1], signal.SIGTERM)
        said = self.end(job, CHECKPOINT)
        self.assertRegex(said, "error: the checkpoint of step .* was not saved: .*File too large")
        self.assertEqual(programs.content_of(run / "checkpoints"), before)

    def test_a_save_that_fails_in_the_background_ends_the_run(self):
        run = self.new_run()
        self.train(2, run=run, steps=ENDLESS, stop_after=2)
        before = programs.content_of(run / "checkpoints")
        job = self.begin(
            run, steps=ENDLESS, log_every=ENDLESS, save_every=10, wrapper=FULL_DISK, environment=SOCKETS
        )
        said = self.end(job, CHECKPOINT)
        self.assertRegex(said, "error: the checkpoint of step 10 was not saved: .*File too large")
        self.assertEqual(programs.content_of(run / "checkpoints"), before)

    def test_a_signal_after_the_last_step_changes_nothing(self):
        run = self.new_run()
        job = self.begin(run, steps=20)
        pids = self.ranks_of(run, job)
        self.until(lambda: self.lines(run) == 20, job)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        said = self.end(job, programs.DONE)
        self.assertNotIn("stopped", said)
        self.assertEqual(self.latest_step(run), 20)

    def test_a_rank_killed_in_the_middle_of_a_save(self):
        steps = 600
        run = self.new_run()
        job = self.begin(run, steps=steps, save_every=5)
        pids = self.ranks_of(run, job)
        checkpoints = run / "checkpoints"
        self.until(lambda: (checkpoints / "latest").exists(), job)
        self.until(lambda: checkpoints.exists() and list(checkpoints.glob("*.tmp")), job)
        os.kill(pids[0], signal.SIGKILL)
        said, _ = job.communicate(timeout=60)
        self.expect_all_gone(said)
        self.assertNotEqual(job.returncode, 0, said)
        self.assertLess(self.latest_step(run), steps)
        self.train(2, run=run, steps=steps, save_every=5, resume=True, digest=True)
        self.expect_same_as_straight(run, steps)
        self.assertEqual(list(checkpoints.glob("*.tmp")), [])
        records = self.summary(run)["all_jobs"]
        self.assertEqual((records["jobs"], records["ended"]), (2, 1))

    def test_a_summary_that_a_dying_job_left_out_is_written_by_the_next(self):
        run = self.new_run()
        self.train(0, run=run, digest=True)
        digest = self.summary(run)["digest"]
        (run / "summary.json").unlink()
        job = self.train(0, run=run, resume=True, digest=True)
        self.assertIn("nothing to do: all 6 steps are done", job.said)
        summary = self.summary(run)
        self.assertEqual((summary["step"], summary["steps"], summary["digest"]), (6, 0, digest))
        self.assertEqual(summary["all_jobs"]["steps"], 6)

    def test_a_job_leaves_a_record_of_where_and_how_it_ran(self):
        run = self.new_run()
        said = self.train(2, run=run, environment={"SLURM_JOB_NAME": "a-name"}, seed=5).said
        record = json.loads((run / "jobs" / "0001.json").read_text())
        self.assertEqual(record["layout"]["ranks"], 2)
        self.assertEqual(record["nodes"][0]["ranks"], [0, 1])
        self.assertEqual(record["seed"], 5)
        self.assertEqual(record["slurm"], {"SLURM_JOB_NAME": "a-name"})
        self.assertGreater(record["memory_bytes"]["checkpoint_buffer"], 0)
        self.assertEqual(record["settings"]["batch"], "16")
        self.assertEqual(record["end"]["steps"], 6)
        self.assertIn(f"(commit {record['build']['commit']})", said)
        self.assertRegex(said, "memory  per rank: .*, checkpoint buffer ")


if __name__ == "__main__":
    programs.main()

"""One run as a chain of jobs on a real Slurm: pre-empted, its node lost, moved from 4 to 2 to 1 to 4 ranks, its disk
full, cut by the clock, a rank killed. Weights and metrics at the end are the bits of a run that nothing disturbed."""

import os
import signal
import sys
import time

import cluster
from cluster import SECONDS_TO_END, Trainings, freeze, thaw_with_signal
from programs import CHECKPOINT


class Chain(Trainings):
    nodes = 4
    steps = 2000
    save_every = 20
    slurm_options = ("-f", "24")  # MiB

    def say(self, what):
        seconds = time.monotonic() - self.began
        print(f"chain: {seconds:6.1f} s  step {self.step_of(self.run_dir):5d}  {what}", flush=True)

    def advance(self, job, steps=100):
        self.wait_for_step(self.run_dir, job, self.step_of(self.run_dir) + steps)

    def pretrain_chain(self, nodes, ranks, **settings):
        job = self.pretrain(self.run_dir, nodes, ranks=ranks, **settings)
        self.jobs.append(job)
        return job

    def test_a_chain_of_jobs_ends_with_the_bits_of_an_undisturbed_run(self):
        self.began = time.monotonic()
        self.disk = self.slurm.folder / "disk"
        self.run_dir = self.disk / "run"
        self.jobs = []
        nodes = self.take_nodes(4)

        self.say("job 1: 4 ranks on 2 nodes")
        job = self.pretrain_chain(nodes[:2], 4, words=("--partition=low",))
        self.advance(job)
        frozen = freeze(self.ranks_of(self.run_dir))
        self.assertEqual(len(frozen), 4)
        self.say("job 2 takes its nodes")
        self.jobs.append(self.preempt(nodes[:2], seconds=1))
        thaw_with_signal(frozen)
        job.wait_for_requeue(1)
        job.wait("RUNNING")
        self.advance(job)
        self.say("job 1 is back, and loses a node")
        self.slurm.node("kill", nodes[1])
        job.wait("PENDING")
        self.slurm.node("start", nodes[1])
        self.assertEqual(job.requeues, 2, job.said)
        job.cancel()

        self.say("job 3: 2 ranks on 1 node, and the disk gets full")
        job = self.pretrain_chain(nodes[2:3], 2)
        self.advance(job)
        full = time.monotonic()
        self.fill_disk()
        job.wait("FAILED", SECONDS_TO_END)
        self.assertLess(time.monotonic() - full, SECONDS_TO_END)
        self.assertEqual((job.code, job.requeues), (CHECKPOINT, 0), job.said)
        self.assertIn("No space left on device", job.said)
        self.assertIn("exit code 4: a checkpoint cannot be written or read", job.said)
        (self.disk / "filler").unlink()

        self.say("job 4: 1 rank, cut by the clock of Slurm")
        job = self.pretrain_chain(nodes[3:], 1, words=("--time=1", "--signal=USR1@30"))
        self.advance(job)
        thaw_with_signal(freeze(self.ranks_of(self.run_dir)))
        job.wait_for_requeue(1)
        self.assertIn("stopped at step", job.said)
        self.say("it is requeued, and cancelled in its second life")
        job.wait("RUNNING")
        self.advance(job)
        job.cancel()
        self.expect_all_of_it_gone(self.run_dir)

        self.say("job 5: 4 ranks on 4 nodes, one of which is killed")
        job = self.pretrain_chain(nodes, 4)
        self.advance(job)
        os.kill(max(self.ranks_of(self.run_dir)), signal.SIGKILL)
        job.wait("FAILED", SECONDS_TO_END)
        self.assertIn(job.code, (137, 143), job.said)

        self.say("job 6: the same again")
        job = self.pretrain_chain(nodes, 4)
        job.wait("COMPLETED")
        self.expect_undisturbed(self.run_dir, job)

        self.say("job 7: the same again")
        job = self.pretrain_chain(nodes, 4)
        job.wait("COMPLETED")
        self.assertIn(f"nothing to do: all {self.steps} steps are done", job.said)
        self.expect_undisturbed(self.run_dir, job)
        self.say(f"done: {len(self.jobs)} jobs, digest {self.summary(self.run_dir)['digest']}")

    def fill_disk(self):
        with (self.disk / "filler").open("wb", buffering=0) as filler:
            block = bytes(1 << 16)
            while block:
                try:
                    filler.write(block)
                except OSError:
                    block = block[: len(block) // 2]


if __name__ == "__main__":
    cluster.main(sys.modules[__name__])

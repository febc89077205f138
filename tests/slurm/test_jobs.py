"""The job scripts with the real programs on a real Slurm: whatever ends a job, the next goes on to the same bits."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import cluster
from cluster import SECONDS_TO_END, Trainings, freeze, thaw, thaw_with_signal, wait_until
from programs import HANG, MODEL, USAGE, options


class Jobs(Trainings):
    nodes = 10

    # --- what ends a job and must not be repeated

    def test_a_usage_error_is_refused_within_seconds_and_not_requeued(self):
        run = self.new_run()
        job = self.pretrain(run, self.take_nodes(1), batc=4)
        job.wait("FAILED", SECONDS_TO_END)
        self.assertEqual((job.code, job.requeues), (USAGE, 0), job.said)
        self.assertIn("Did you mean 'batch'?", job.said)
        self.assertIn("exit code 2: the same command would fail again", job.said)
        self.assertFalse(run.exists())

    def test_srun_without_pmix_is_refused_with_the_reason(self):
        run = self.new_run()
        job = self.pretrain(run, self.take_nodes(1), ranks=2, environment={"VITRAIL_SRUN": "--mpi=none"})
        job.wait("FAILED", SECONDS_TO_END)
        self.assertEqual((job.code, job.requeues), (USAGE, 0), job.said)
        self.assertIn("Start with srun --mpi=pmix", job.said)
        self.assertFalse((run / "metrics.jsonl").exists())

    def test_what_is_missing_is_named(self):
        node = self.take_nodes(1)
        empty = Path(self.stand_in("unused", ""))
        run = self.new_run()
        expected = {
            "no --run-dir was given": self.submit("pretrain.sbatch", "--preset", "fmnist", nodes=node),
            f"there is no program vitrail-train in {empty}": self.submit(
                "pretrain.sbatch", "--run-dir", run, nodes=node, bin=empty
            ),
            "no --init-from was given": self.submit("finetune.sbatch", "--run-dir", run, nodes=node),
            "no --run-dir was given (something": self.submit("evaluate.sbatch", "--data", self.data, nodes=node),
            "nothing to convert was named": self.submit("convert.sbatch", nodes=node),
            "this job is in no array": self.submit("scaling.sbatch", "--into", run, nodes=node),
            f"there is no program vitrail-eval in {empty}": self.submit(
                "evaluate.sbatch", "--run-dir", run, nodes=node, bin=empty
            ),
            "cluster.env cannot be read": self.submit(
                "pretrain.sbatch", "--run-dir", run, nodes=node,
                environment={"VITRAIL_CLUSTER_ENV": f"{empty}/cluster.env"},
            ),
        }
        for said, job in expected.items():
            job.wait("FAILED")
            self.assertEqual((job.code, job.requeues), (USAGE, 0), job.said)
            self.assertIn(f".sbatch: error: {said}" if "cannot" not in said else said, job.said)

    # --- what ends a job that can go on

    def test_a_killed_rank_ends_all_and_the_same_submitted_again_goes_on(self):
        run, nodes = self.new_run(), self.take_nodes(2)
        job = self.pretrain(run, nodes)
        self.wait_for_step(run, job)
        ranks = self.ranks_of(run)
        self.assertEqual(len(ranks), 2, job.said)
        killed = time.monotonic()
        os.kill(max(ranks), signal.SIGKILL)
        job.wait("FAILED", SECONDS_TO_END)
        self.expect_all_of_it_gone(run)
        self.assertLess(time.monotonic() - killed, SECONDS_TO_END)
        self.assertIn(job.code, (137, 143), job.said)
        self.assertIn("a rank crashed, ran out of memory or was killed", job.said)
        self.assertEqual(job.requeues, 0)

        again = self.pretrain(run, nodes, ranks=4)  # on more ranks
        again.wait("COMPLETED")
        self.assertIn("resumed from", again.said)
        self.expect_undisturbed(run, again)

    def test_a_lost_node_requeues_the_job_which_ends_with_the_same_bits(self):
        run, nodes = self.new_run(), self.take_nodes(2)
        job = self.pretrain(run, nodes)
        self.wait_for_step(run, job)
        self.slurm.node("kill", nodes[1])
        job.wait("PENDING")
        self.assertLess(self.step_of(run), self.steps)
        self.slurm.node("start", nodes[1])
        job.wait("COMPLETED")
        self.assertEqual(job.requeues, 1, job.said)
        self.assertIn("life 2: 2 ranks on 2 nodes", job.said)
        self.expect_undisturbed(run, job)

    def test_a_killed_slurmd_requeues_the_job_which_ends_with_the_same_bits(self):
        run, nodes = self.new_run(), self.take_nodes(2)
        job = self.pretrain(run, nodes)
        self.wait_for_step(run, job)
        freeze(self.ranks_of(run))  # they could go on without it, to the end
        self.slurm.node("killd", nodes[1])
        job.wait("PENDING")
        self.slurm.node("kill", nodes[1])  # somebody looks after the node, and boots it
        self.slurm.node("start", nodes[1])
        job.wait("COMPLETED")
        self.assertEqual(job.requeues, 1, job.said)
        self.expect_undisturbed(run, job)

    def test_a_node_without_network_ends_the_job_which_can_go_on(self):
        if self.slurm.network == "shared":
            self.skipTest("the nodes have no network of their own here")
        run, nodes = self.new_run(), self.take_nodes(2)
        job = self.pretrain(run, nodes, hang_timeout=4)
        self.wait_for_step(run, job)
        self.slurm.node("cut", nodes[1])
        self.addCleanup(self.slurm.node, "join", nodes[1])
        # Joined again before the controller, which waits for some 7 s and more, takes the node for lost and requeues.
        wait_until(lambda: "no progress for" in job.said, lambda: job.said, 4 + SECONDS_TO_END)
        self.slurm.node("join", nodes[1])
        job.wait("FAILED")
        self.assertEqual((job.code, job.requeues), (HANG, 0), job.said)
        self.assertRegex(job.said, "vitrail-train: error: no progress for .*(did not arrive|no rank is missing)")

        again = self.pretrain(run, nodes[:1])
        again.wait("COMPLETED")
        self.expect_undisturbed(run, again)

    def test_a_cancelled_job_ends_within_seconds_and_its_checkpoint_is_good(self):
        run, nodes = self.new_run(), self.take_nodes(1)
        job = self.pretrain(run, nodes, ranks=2)
        self.wait_for_step(run, job)
        cancelled = time.monotonic()
        job.cancel()
        wait_until(lambda: job.state == "CANCELLED", lambda: job.said)
        self.expect_all_of_it_gone(run)
        self.assertLess(time.monotonic() - cancelled, SECONDS_TO_END)
        time.sleep(2)
        self.assertEqual((job.state, job.requeues), ("CANCELLED", 0), job.said)
        self.assertEqual([path.name for path in (run / "checkpoints").glob("*.tmp")], [])

        again = self.pretrain(run, nodes)  # on one rank
        again.wait("COMPLETED")
        self.expect_undisturbed(run, again)

    def test_a_signal_saves_and_requeues_and_the_next_life_goes_on(self):
        run, nodes = self.new_run(), self.take_nodes(2)
        job = self.pretrain(run, nodes)
        self.wait_for_step(run, job)
        job.cancel("--signal=USR1")
        job.wait_for_requeue(1, SECONDS_TO_END)
        stopped_at = self.step_of(run)
        self.assertLess(stopped_at, self.steps)
        self.assertIn(f"stopped at step {stopped_at} (", job.said)
        job.wait("COMPLETED")
        self.assertEqual(job.requeues, 1, job.said)
        self.assertIn(f"life 2: 2 ranks on 2 nodes, from step {stopped_at} of {run}", job.said)
        self.expect_undisturbed(run, job)

    def test_a_preempted_job_saves_and_comes_back(self):
        run, nodes = self.new_run(), self.take_nodes(1)
        job = self.pretrain(run, nodes, ranks=2, words=("--partition=low",))
        self.wait_for_step(run, job)
        frozen = freeze(self.ranks_of(run))
        self.preempt(nodes, seconds=2)
        thaw_with_signal(frozen)
        job.wait("COMPLETED")
        self.assertEqual(job.requeues, 1, job.said)
        self.assertIn("stopped at step", job.said)
        self.expect_undisturbed(run, job)

    def test_the_time_limit_of_the_program_saves_and_requeues(self):
        run, nodes = self.new_run(), self.take_nodes(1)
        job = self.pretrain(run, nodes, ranks=2, time_limit=12)
        self.wait_for_step(run, job)
        frozen = freeze(self.ranks_of(run))
        time.sleep(9)
        thaw(frozen)
        job.wait_for_requeue(1, SECONDS_TO_END)
        self.assertIn("stopped at step", job.said)
        self.assertIn("--time-limit", job.said)
        job.cancel()  # while it waits in the queue
        again = self.pretrain(run, nodes)
        again.wait("COMPLETED")
        self.expect_undisturbed(run, again)

    # --- the other scripts

    def test_fine_tuning_evaluation_and_conversions_follow_a_training(self):
        run, tuned, nodes = self.new_run(), self.new_run(), self.take_nodes(1)
        settings = {"steps": 40, "save_every": 0}
        self.pretrain(run, nodes, ranks=2, **settings).wait("COMPLETED")
        job = self.submit(
            "finetune.sbatch", *self.arguments(tuned, 2, init_from=run, new_head=True, **settings), nodes=nodes, ranks=2
        )
        job.wait("COMPLETED")
        self.assertIn("initial weights from", job.said)
        evaluated = [self.evaluated(tuned, nodes)]

        # Out into a file of other software, and in again: the model is the same.
        file, back = tuned / "of two words.safetensors", self.new_run()
        for source, target in ((tuned, file), (file, back)):
            # One process, though the job has two tasks.
            job = self.submit("convert.sbatch", source, target, nodes=nodes, ranks=2)
            job.wait("COMPLETED")
        evaluated.append(self.evaluated(back, nodes))
        self.assertIn("test_accuracy", evaluated[0])
        self.assertEqual(evaluated[0], evaluated[1])

    def evaluated(self, run, nodes):
        """What evaluate.sbatch says of a run's weights."""
        job = self.submit(
            "evaluate.sbatch", *options(run_dir=run, data=self.data / "test", expert_parallel=2), nodes=nodes, ranks=2
        )
        job.wait("COMPLETED")
        said = json.loads((run / "evaluation.json").read_text())
        return {name: value for name, value in said.items() if name not in ("checkpoint", "step")}

    def test_an_array_of_a_scaling_experiment_gives_its_table(self):
        nodes, folder = self.take_nodes(2), self.new_run()
        model = {name: value for name, value in MODEL.items() if name != "steps"}
        model["batch"] = "{16*ranks}"
        job = self.submit(
            "scaling.sbatch", f"--into={folder}", *options(**model), "--expert-parallel", "{ranks}",
            "--seconds", "0.05", nodes=nodes, ranks=4, words=("--array=1,2,4,5", "--open-mode=append"),
        )
        wait_until(lambda: not self.slurm.ask("squeue", "-h", "-j", job.number, check=False), lambda: job.said)
        said = job.said  # of all of them: the test names one file
        self.assertIn("scaling.sbatch: error: 5 ranks, but 4 tasks", said)
        table = (folder / "table.txt").read_text().splitlines()
        self.assertEqual(len(table), 4, said)
        rows = [line.split() for line in table[1:]]
        self.assertEqual([row[:2] for row in rows], [["1", "1"], ["2", "1"], ["4", "2"]], table)
        self.assertEqual([(row[4], row[5]) for row in rows], [("16", "1"), ("32", "2"), ("64", "4")], table)
        self.assertEqual(rows[0][8:11], ["1.00", "100.0", "%"])
        for row in rows[1:]:
            speed, first = float(row[7]), float(rows[0][7])
            self.assertAlmostEqual(float(row[8]), speed / first, delta=0.02)
            self.assertAlmostEqual(float(row[9]), 100 * speed / first / int(row[0]), delta=0.2)
        self.assertEqual(sorted(path.name for path in folder.glob("*.new")), [])


if __name__ == "__main__":
    cluster.main(sys.modules[__name__])

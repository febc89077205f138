"""When jobs/pretrain.sbatch requeues itself, and when not, with a stand-in for vitrail-train: on a Slurm that requeues
exit code 85 by itself, and on one that does not."""

import sys
import time

import cluster
from cluster import SECONDS_TO_END, SlurmTests, wait_until

# value_of --run-dir "$@"; advance N: the newest checkpoint is that of N steps more.
SHELL = """
value_of() { local name=$1; shift; while [ "$1" != "$name" ]; do shift; done; echo "$2"; }
run=$(value_of --run-dir "$@")
mkdir -p "$run/checkpoints"
advance() {
  local name=step-0
  [ ! -e "$run/checkpoints/latest" ] || read -r name <"$run/checkpoints/latest"
  printf 'step-%08d\\n' $((10#${name#step-} + $1)) >"$run/checkpoints/latest"
}
"""


class Rules:
    """Both kinds of Slurm must show the same."""

    nodes = 6

    def pretrain(self, program, *arguments, run=None, requeues=3, node=None, **settings):
        return self.submit(
            "pretrain.sbatch", *arguments, "--run-dir", run or self.new_run(), nodes=[node or self.take_nodes(1)[0]],
            bin=self.stand_in("vitrail-train", SHELL + program), environment={"VITRAIL_REQUEUES": str(requeues)},
            **settings,
        )

    def test_requeues_exit_code_85_once_each_and_goes_on(self):
        run = self.new_run()
        job = self.pretrain(
            'advance 10; echo "life ${SLURM_RESTART_COUNT:-0} $*"; [ "${SLURM_RESTART_COUNT:-0}" = 2 ] || exit 85',
            "--steps", "30", run=run, requeues=0,
        )
        job.wait("COMPLETED")
        self.assertEqual(job.requeues, 2, job.said)  # each requeue counts once
        for life in range(3):
            self.assertEqual(job.said.count(f"life {life} --resume --steps 30"), 1, job.said)
        self.assertIn(f"life 3: 1 ranks on 1 nodes, from step 20 of {run}", job.said)

    def test_gives_up_after_requeues_without_a_newer_checkpoint(self):
        run = self.new_run()
        job = self.pretrain(
            'echo "life ${SLURM_RESTART_COUNT:-0}"; [ -e "$run/checkpoints/latest" ] || advance 7; exit 85',
            run=run, requeues=1,
        )
        job.wait("FAILED")
        self.assertEqual(job.code, 1, job.said)
        # The first life made a checkpoint, the second none: that is allowed once, and the third is not followed.
        self.assertEqual(job.said.count("life "), 6, job.said)  # ours, and the script's
        self.assertEqual(job.requeues, 2, job.said)
        self.assertIn("1 requeues in a row brought no checkpoint newer than that of step 7", job.said)
        time.sleep(3)
        self.assertEqual(job.state, "FAILED")

        # Who submits it again may try again, though nothing has changed on disk.
        again = self.pretrain("advance 1", run=run, requeues=1, node=self.take_nodes(1)[0])
        again.wait("COMPLETED")

    def test_gives_up_too_when_somebody_else_requeues_without_a_newer_checkpoint(self):
        job = self.pretrain('echo "began"; while :; do sleep 0.1; done', requeues=0)
        wait_until(lambda: "\nbegan" in job.said, "the job begins")
        self.slurm.ask("scontrol", "requeue", job.number)
        job.wait("FAILED")
        self.assertEqual((job.code, job.requeues, job.said.count("began")), (1, 1, 1), job.said)
        self.assertIn("0 requeues in a row brought no checkpoint newer than that of step 0", job.said)

    def test_never_requeues_another_exit_code(self):
        node = self.take_nodes(1)[0]
        jobs = {code: self.pretrain(f"advance 1; exit {code}", node=node) for code in (1, 2, 3, 4, 5, 6, 137, 143)}
        for code, job in jobs.items():
            job.wait("FAILED")
            self.assertEqual(job.code, code, job.said)
            self.assertIn(f"pretrain.sbatch: exit code {code}", job.said)
        time.sleep(2)
        for job in jobs.values():
            self.assertEqual((job.state, job.requeues), ("FAILED", 0), job.said)

    def test_a_cancelled_job_stays_cancelled_though_it_saved(self):
        job = self.pretrain(
            "trap 'advance 1; echo noted; exit 85' TERM; echo waiting; while :; do sleep 0.1; done"
        )
        wait_until(lambda: "waiting" in job.said, "the job begins")
        start = time.monotonic()
        job.cancel()
        wait_until(lambda: job.facts()["JobState"] == "CANCELLED", lambda: job.said)
        wait_until(lambda: "noted" in job.said, lambda: job.said)
        self.assertLess(time.monotonic() - start, SECONDS_TO_END)
        time.sleep(4)
        self.assertEqual((job.state, job.requeues), ("CANCELLED", 0), job.said)
        self.assertEqual(job.said.count("waiting"), 1)

    def test_a_signal_to_the_script_alone_reaches_the_ranks(self):
        job = self.pretrain(
            'trap "advance 1; echo noted; exit 85" USR1; echo "life ${SLURM_RESTART_COUNT:-0}"\n'
            '[ "${SLURM_RESTART_COUNT:-0}" = 1 ] || while :; do sleep 0.1; done'
        )
        wait_until(lambda: "\nlife 0" in job.said, "the job begins")
        job.cancel("--batch", "--signal=USR1")
        job.wait("COMPLETED")
        self.assertEqual((job.said.count("noted"), job.requeues), (1, 1), job.said)


class WhereSlurmRequeues(Rules, SlurmTests):
    pass


class WhereTheScriptRequeues(Rules, SlurmTests):
    slurm_options = ("-q",)


if __name__ == "__main__":
    cluster.main(sys.modules[__name__])

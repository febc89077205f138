"""Checkpoints that are damaged, cannot be written, or do not fit: the documented code, and nothing lost."""

import shutil
import unittest

import programs
from programs import CHECKPOINT, NUMBERS, USAGE, Programs, content_of, flip_bit

# Files of at most 16 KiB, as on a full disk; the ranks talk over sockets, whose buffers are no files.
FULL_DISK = ["bash", "-c", 'trap "" XFSZ; ulimit -f 16; exec "$@"', "bash"]
SOCKETS = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_pml": "ob1"}


class Checkpoints(Programs):
    def setUp(self):
        whole = self.folder / "whole"
        if not whole.exists():
            self.train(2, run=whole, save_every=2, stop_after=4)
        self.run_dir = self.new_run()
        shutil.copytree(whole, self.run_dir)
        self.newest = self.run_dir / "checkpoints" / "step-00000004"

    def expect_unusable(self, problem, why=".+", advice=".*", **settings):
        """Neither training nor evaluation takes it, and both leave everything as it is."""
        before = content_of(self.run_dir)
        self.refused(CHECKPOINT, problem, why, advice, run=self.run_dir, resume=True, **settings)
        job = self.evaluate(settings.get("ranks", 1), run=self.run_dir, code=CHECKPOINT)
        self.expect_one_error(job, problem, why, advice)
        self.assertEqual(content_of(self.run_dir), before)

    def test_a_missing_part(self):
        next(self.newest.glob("part-00001*.h5")).unlink()
        self.expect_unusable("file '.*part-00001.*' cannot be read", "No such file.*", "Restore the file.*", ranks=2)

    def test_a_truncated_part(self):
        part = next(self.newest.glob("part-00000*.h5"))
        part.write_bytes(part.read_bytes()[:-1])
        self.expect_unusable("file '.*part-00000.*' has \\d+ bytes", "its manifest says \\d+", "Restore the file.*")

    def test_a_flipped_bit(self):
        part = next(self.newest.glob("part-00001*.h5"))
        flip_bit(part, part.stat().st_size // 2)
        self.expect_unusable("file '.*part-00001.*' is damaged.*", "its manifest says [0-9a-f]{64}", ranks=2)

    def test_a_damaged_manifest(self):
        manifest = self.newest / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:1000])
        self.expect_unusable("manifest.json")

    def test_lost_manifests_are_no_reason_to_start_anew(self):
        for manifest in self.run_dir.glob("checkpoints/*/manifest.json"):
            manifest.unlink()
        before = content_of(self.run_dir)
        problem = "no checkpoint in .* is whole"
        self.refused(CHECKPOINT, problem, advice="Restore it.*", ranks=2, run=self.run_dir, resume=True)
        self.refused(CHECKPOINT, problem, advice="Restore it.*", run=self.run_dir)
        job = self.evaluate(run=self.run_dir, code=CHECKPOINT)
        self.expect_one_error(job, "no checkpoint in")
        self.assertEqual(content_of(self.run_dir), before)

    def test_a_lost_newest_checkpoint_leaves_the_one_before(self):
        shutil.rmtree(self.newest)
        self.assertIn("resumed from", self.train(run=self.run_dir, resume=True).said)
        self.assertEqual([line["step"] for line in self.metrics(self.run_dir)], [1, 2, 3, 4, 5, 6])

    def test_no_checkpoint_to_evaluate(self):
        job = self.evaluate(2, run=self.folder / "nowhere", code=CHECKPOINT)
        self.expect_one_error(job, "no checkpoint '.*nowhere'", advice="Give the folder.*")
        self.assertFalse((self.folder / "nowhere").exists())

    def test_a_run_is_not_overwritten(self):
        before = content_of(self.run_dir)
        self.refused(USAGE, "holds a run already: .*step-00000004", advice="Add --resume.*", ranks=2, run=self.run_dir)
        self.assertEqual(content_of(self.run_dir), before)

    def test_other_numerics_are_named_and_refused(self):
        before = content_of(self.run_dir)
        self.refused(
            USAGE,
            "--batch 32 .was 16., --learning-rate 0.5 .was 0.003., --experts 4 .was 8.",
            "these settings change results",
            "Resume with the old values.*",
            **{"ranks": 2, "run": self.run_dir, "resume": True, "batch": 32, "learning_rate": 0.5, "experts": 4},
        )
        self.assertEqual(content_of(self.run_dir), before)

    def test_other_data_are_refused(self):
        before = content_of(self.run_dir)
        other = self.folder / "other-data"
        self.pack(other / "train", programs.IMAGES, seed=3)
        self.refused(
            USAGE,
            "with the data other-data/train",
            "its shards are not those .*",
            "Name the data .*",
            **{"run": self.run_dir, "resume": True, "data": other},
        )
        self.assertEqual(content_of(self.run_dir), before)

    def test_the_layout_is_free(self):
        self.train(1, run=self.run_dir, resume=True, expert_parallel=1, leaves_per_pass=1, digest=True)
        straight = self.new_run()
        self.train(2, run=straight, expert_parallel=1, communicator="checked", digest=True)
        self.assertEqual(self.summary(self.run_dir)["digest"], self.summary(straight)["digest"])
        self.assertEqual(self.metrics(self.run_dir), self.metrics(straight))

    def test_a_full_disk_leaves_the_checkpoint_before(self):
        before = content_of(self.run_dir / "checkpoints")
        job = self.train(2, run=self.run_dir, resume=True, code=CHECKPOINT, wrapper=FULL_DISK, environment=SOCKETS)
        self.expect_one_error(
            job, "the checkpoint of step 6 was not saved: rank 0 on .*: cannot write '.*'", ".*File too large.*",
            ".*Checkpoints saved before are untouched",
        )
        self.assertEqual(content_of(self.run_dir / "checkpoints"), before)
        self.train(2, run=self.run_dir, resume=True)
        self.assertEqual(self.latest_step(self.run_dir), 6)
        self.assertEqual([line["step"] for line in self.metrics(self.run_dir)], [1, 2, 3, 4, 5, 6])

    def test_which_checkpoints_stay_and_in_how_many_files(self):
        run = self.new_run()
        self.train(2, run=run, save_every=1, keep_last=1, keep_every=2, checkpoint_writers=1, steps=5)
        checkpoints = run / "checkpoints"
        self.assertEqual([path.name for path in sorted(checkpoints.glob("step-*"))],
                         ["step-00000002", "step-00000004", "step-00000005"])
        self.assertEqual([len(list(path.glob("*.h5"))) for path in checkpoints.glob("step-*")], [1, 1, 1])
        self.refused(USAGE, "--keep-every -1", "it is a number from 0 on", keep_every=-1)

    def test_numbers_that_blow_up_name_step_and_layer(self):
        # Step 1 changes nothing: warm-up begins at 0. Step 2 throws the weights away.
        run = self.new_run()
        settings = {"warmup": 1, "learning_rate": 1e30, "clip_norm": 0, "save_every": 1}
        blown = "step 3: loss .*"
        where = "the first NaN or Inf stands in .*block.* on rank \\d.*"
        advice = "Lower the learning rate.*"
        job = self.train(2, run=run, code=NUMBERS, **settings)
        self.expect_one_error(job, blown, where, advice)
        self.assertEqual(self.latest_step(run), 2)
        first = run / "checkpoints" / "step-00000001"
        self.job(2, "vitrail-eval", "--checkpoint", first, "--data", self.data)
        job = self.train(2, run=run, code=NUMBERS, resume=True, **settings)
        self.assertIn("resumed from", job.said)
        self.expect_one_error(job, blown, where, advice)
        shutil.rmtree(run / "checkpoints" / "step-00000002")
        job = self.train(2, run=run, resume=True, stop_after=1, **settings)
        self.assertIn(f"resumed from {first}", job.said)
        self.assertEqual(self.latest_step(run), 2)


if __name__ == "__main__":
    programs.main()

"""Checkpoints that are damaged, cannot be written, or do not fit: the documented code, and nothing lost."""

import json
import shutil
import unittest

import programs
from programs import CHECKPOINT, NUMBERS, USAGE, Programs, content_of, flip_bit, piece_of

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

    def straight(self):
        """The digest and the metrics of the run without any mishap."""
        run = self.folder / "straight"
        if not run.exists():
            self.train(2, run=run, digest=True)
        return self.summary(run)["digest"], self.metrics(run)

    def expect_the_one_before(self, damage, ranks=1):
        """Training warns and goes on from the older checkpoint to the same bits."""
        job = self.train(ranks, run=self.run_dir, resume=True, digest=True)
        who = r"rank \d on \S+( \(and 1 more rank\))?"
        self.assertRegex(
            job.said, rf"vitrail-train: warning: checkpoint step-00000004: {who}: .*{damage}.* Trying the one before"
        )
        self.assertEqual(job.said.count("warning: checkpoint"), 1, job.said)
        self.assertRegex(job.said, "resumed from .*step-00000002")
        self.assertEqual((self.summary(self.run_dir)["digest"], self.metrics(self.run_dir)), self.straight())

    def not_evaluated(self, problem, why=".+", advice=".*", ranks=1):
        before = content_of(self.run_dir)
        job = self.evaluate(ranks, run=self.run_dir, code=CHECKPOINT)
        self.expect_one_error(job, problem, why, advice)
        self.assertEqual(content_of(self.run_dir), before)

    def test_a_missing_part(self):
        next(self.newest.glob("part-00001*.h5")).unlink()
        self.not_evaluated("file '.*part-00001.*' cannot be read", "No such file.*", "Restore the file.*", ranks=2)
        self.expect_the_one_before("file '.*part-00001.*' cannot be read .No such file.*", ranks=2)

    def test_a_truncated_part(self):
        part = next(self.newest.glob("part-00000*.h5"))
        part.write_bytes(part.read_bytes()[:-1])
        self.not_evaluated("file '.*part-00000.*' has \\d+ bytes", "its manifest says \\d+", "Restore the file.*")
        self.expect_the_one_before("file '.*part-00000.*' has \\d+ bytes")

    def test_a_flipped_bit_of_a_parameter(self):
        tensor, part, offset = piece_of(self.newest, "parameters", 1)
        flip_bit(part, offset)
        damage = f"tensor '{tensor}' is damaged in file '.*part-00001.*' at offset {offset}"
        self.not_evaluated(damage, "the checksum of the \\d+ bytes.*", "Restore the file.*", ranks=2)
        self.expect_the_one_before(damage, ranks=2)

    def test_a_flipped_bit_that_one_rank_reads(self):
        tensor, part, offset = piece_of(self.newest, "adam_v", 1)
        flip_bit(part, offset + 5)
        self.evaluate(run=self.run_dir)  # which has no use for it
        (self.run_dir / "evaluation.json").unlink()
        self.expect_the_one_before(f"tensor '{tensor}' is damaged in file '.*' at offset {offset}", ranks=2)

    def test_a_damaged_manifest(self):
        manifest = self.newest / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:1000])
        self.not_evaluated("manifest.json")
        self.expect_the_one_before("manifest.json", ranks=2)

    def test_without_an_intact_checkpoint_all_reasons_are_told(self):
        tensor, part, offset = piece_of(self.newest, "parameters", 0)
        flip_bit(part, offset)
        before = self.newest.with_name("step-00000002")
        next(before.glob("part-00001*.h5")).unlink()
        content = content_of(self.run_dir)
        of_newest = f"step-00000004: rank \\d on .*tensor '{tensor}' is damaged.*"
        reasons = of_newest + "; step-00000002: rank \\d on .*No such file.*"
        problem = "no checkpoint in .*checkpoints is intact"
        self.refused(CHECKPOINT, problem, reasons, "Restore one.*", ranks=2, run=self.run_dir, resume=True)
        self.assertEqual(content_of(self.run_dir), content)

    def test_settings_that_differ_are_no_reason_to_try_another(self):
        _, part, offset = piece_of(self.newest, "parameters", 0)
        flip_bit(part, offset)
        job = self.refused(USAGE, "--seed 5 .was 0.", "these settings.*", run=self.run_dir, resume=True, seed=5)
        self.assertNotIn("warning", job.said)

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

    def test_the_back_end_is_free_but_the_bits_differ(self):
        other = "--backend {} (was {}): the bits will differ from those of an uninterrupted run"
        job = self.train(2, run=self.run_dir, resume=True, backend="reference", stop_after=1, digest=True)
        self.assertIn(other.format("reference", "cpu"), job.said)
        job = self.train(2, run=self.run_dir, resume=True, digest=True)
        self.assertIn(other.format("cpu", "reference"), job.said)
        digest, metrics = self.straight()
        self.assertNotEqual(self.summary(self.run_dir)["digest"], digest)
        mine = self.metrics(self.run_dir)
        self.assertEqual([line["step"] for line in mine], [1, 2, 3, 4, 5, 6])
        for ours, theirs in zip(mine, metrics):
            self.assertAlmostEqual(ours["loss"], theirs["loss"], delta=1e-4)

    def test_any_back_end_evaluates(self):
        results = []
        for backend in ("cpu", "reference"):
            self.evaluate(run=self.run_dir, backend=backend)
            results.append(json.loads((self.run_dir / "evaluation.json").read_text()))
        self.assertAlmostEqual(results[0]["loss"], results[1]["loss"], delta=1e-5)
        self.assertNotEqual(results[0]["loss"], results[1]["loss"])

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

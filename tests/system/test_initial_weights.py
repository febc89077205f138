"""Runs that begin with the weights of another: fine-tuning, other resolutions and classes, upcycling."""

import json
import math
import shutil
import unittest

import programs
from programs import CHECKPOINT, USAGE, Programs, flip_bit, piece_of

# Square grids of patches: 2x2, 5 tokens. A third of the rows of experts is dropped, so routing shows in the results.
SQUARE = {"image_height": 8, "learning_rate": 0.02, "capacity_factor": 0.7}
STANDS_STILL = {"learning_rate": 0, "final_learning_rate": 0, "steps": 1}


class InitialWeights(Programs):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.square = cls.folder / "square"
        cls.pack(cls.square / "train", programs.IMAGES, seed=4, height=8)
        cls.pack(cls.square / "test", 52, seed=5, height=8)
        cls.large = cls.folder / "large"
        cls.pack(cls.large / "train", programs.IMAGES, seed=6, height=12, width=12, classes=3)
        cls.source = cls.folder / "source"
        cls.dense = cls.folder / "dense"

    def setUp(self):
        if not self.source.exists():
            self.train(2, run=self.source, data=self.square, **{**SQUARE, "steps": 20})
            self.train(1, run=self.dense, data=self.square, moe="none", **{**SQUARE, "steps": 20})

    def start(self, ranks=1, source=None, **settings):
        """A run of the square images that begins with the weights of `source`. Returns its folder and the job."""
        run = self.new_run()
        merged = {"data": self.square, "init_from": source or self.source, **SQUARE, **settings}
        return run, self.train(ranks, run=run, **merged)

    def results(self, run, **settings):
        output = self.folder / "results.json"
        self.evaluate(0, run=run, data=self.square, output=output, **settings)
        results = json.loads(output.read_text())
        for of_this_run in ("checkpoint", "step"):
            del results[of_this_run]
        return results

    def refuses(self, problem, why=".+", advice=".*", code=USAGE, **settings):
        self.refused(code, problem, why, advice, **{"data": self.square, "init_from": self.source, **SQUARE, **settings})

    def test_what_changes_nothing_evaluates_as_its_source_to_the_bit(self):
        run, job = self.start(2, **STANDS_STILL)
        self.assertRegex(job.said, rf"initial weights from {self.source}/checkpoints/step-00000020, step 20")
        self.assertRegex(job.said, r"copied \d+ tensors")
        self.assertEqual(self.results(run), self.results(self.source))
        self.assertEqual([line["step"] for line in self.metrics(run)], [1])

    def test_running_averages_begin_with_the_new_values(self):
        averaged, _ = self.start(2, average_decay=0.5, **STANDS_STILL)
        run, _ = self.start(source=averaged, init_average=True, **STANDS_STILL)
        self.assertEqual(self.results(run), self.results(self.source))

    def test_one_checkpoint_may_be_named(self):
        run, _ = self.start(source=self.source / "checkpoints" / "step-00000020", **STANDS_STILL)
        self.assertEqual(self.results(run), self.results(self.source))

    def test_a_new_head_sees_the_same_features(self):
        few_shot = {"few_shot": [1, 5], "few_shot_train": self.square, "few_shot_test": self.square}
        run, job = self.start(new_head=True, **STANDS_STILL)
        self.assertIn("fresh: head/kernel, head/bias", job.said)
        self.assertIn("dropped: head/bias, head/kernel", job.said)
        self.assertEqual(self.results(run, **few_shot)["few_shot"], self.results(self.source, **few_shot)["few_shot"])
        self.assertAlmostEqual(self.metrics(run)[0]["main_loss"], math.log(programs.CLASSES), places=6)

    def test_fine_tuning_at_another_resolution_with_other_classes(self):
        settings = {"data": self.large, "image_height": 12, "image_width": 12, "classes": 3, "steps": 8}
        run, job = self.start(2, digest=True, **settings)
        self.assertIn("resized Encoder/posembed_input/pos_embedding from 5 to 10 tokens", job.said)
        self.assertIn("fresh: head/kernel, head/bias", job.said)
        losses = [line["loss"] for line in self.metrics(run)]
        self.assertAlmostEqual(self.metrics(run)[0]["main_loss"], math.log(3), places=6)
        self.assertLess(losses[-1], losses[0])
        other_layout, _ = self.start(1, digest=True, leaves_per_pass=1, **settings)
        self.assertEqual(self.summary(run)["digest"], self.summary(other_layout)["digest"])

    def test_upcycled_experts_equal_the_dense_mlp(self):
        # All experts are chosen and none is full: the gates sum to 1, so the layer is the dense one but for rounding.
        sparse = {"experts": 4, "selected": 4, "capacity_factor": 1}
        run, job = self.start(2, self.dense, **{**STANDS_STILL, **sparse})
        self.assertIn("tiled into all experts: Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel, ", job.said)
        self.assertIn("fresh: Encoder/encoderblock_1/Moe/Router/dense/kernel", job.said)
        self.assertIn("with --normalize-gates the model would begin like the dense one", job.said)
        before, after = self.results(self.dense), self.results(run)
        self.assertEqual(after["drop_rate"], 0)
        self.assertEqual(after["correct"], before["correct"])
        self.assertAlmostEqual(after["main_loss"], before["main_loss"], places=5)
        # With one expert, less than half of the MLP's output is added: another model.
        self.assertNotAlmostEqual(self.results(run, selected=1)["main_loss"], before["main_loss"], places=3)

    def test_with_normalized_gates_upcycled_top_2_routing_equals_the_dense_mlp(self):
        sparse = {"experts": 4, "selected": 2, "capacity_factor": 2, "normalize_gates": True}
        run, job = self.start(2, self.dense, **{**STANDS_STILL, **sparse})
        self.assertNotIn("with --normalize-gates", job.said)
        before, after = self.results(self.dense), self.results(run)
        self.assertEqual((after["drop_rate"], after["correct"]), (0, before["correct"]))
        self.assertAlmostEqual(after["main_loss"], before["main_loss"], places=5)

    def test_upcycling_gives_the_same_bits_on_every_layout(self):
        digests = set()
        for ranks, width, leaves in ((1, 1, 2), (2, 2, 1), (2, 1, 1)):
            run, _ = self.start(ranks, self.dense, expert_parallel=width, leaves_per_pass=leaves, steps=3, digest=True)
            digests.add(self.summary(run)["digest"])
        self.assertEqual(len(digests), 1)

    def test_a_resumed_run_does_not_begin_again(self):
        straight, _ = self.start(digest=True)
        run, _ = self.start(stop_after=2)
        settings = {"run": run, "data": self.square, "resume": True, "digest": True, **SQUARE}
        job = self.train(1, init_from=self.source, **settings)
        self.assertIn("--init-from is ignored", job.said)
        self.assertEqual(self.summary(run)["digest"], self.summary(straight)["digest"])

    def test_models_that_do_not_fit_are_refused_by_tensor(self):
        self.refuses(
            r"parameters/embedding/kernel is \[4, 4, 1, 16\]", r"the model of this run needs \[4, 4, 1, 32\]", ranks=2,
            width=32,
        )
        self.refuses(
            r"parameters/Encoder/encoderblock_1/Moe/Router/dense/kernel is \[16, 8\]",
            r"the model of this run needs \[16, 4\]",
            "Set --moe, --experts and --router .*",
            experts=4,
        )
        self.refuses(
            "has no tensor parameters/Encoder/encoderblock_1/Mlp/Dense_0/kernel",
            r"the model of this run has Encoder/encoderblock_1/Mlp/Dense_0/kernel \[16, 32\]",
            moe="none",
        )
        self.refuses(
            r"has parameters/Encoder/encoderblock_1/\S+ \[\S+\]", "the model of this run has no place for it",
            "Set --preset, --blocks.*", blocks=1, moe="none", init_from=self.dense,
        )
        self.refuses(
            "has no tensor parameters/pre_logits/kernel", ".*", "Set --representation .*", representation=4,
            new_head=True,
        )

    def test_a_grid_that_is_not_square_is_refused(self):
        problem = "the 7 position embeddings of the target cannot be resized"
        self.refuses(problem, "they are neither a square grid .*", data=self.data, image_height=12)

    def test_what_is_taken_needs_a_source_that_has_it(self):
        self.refuses("holds no average/...", advice="Start without --init-average", init_average=True)
        self.refuses("--new-head and --init-average without --init-from", init_from=None, new_head=True)
        self.refuses("no checkpoint '.*nowhere'", code=CHECKPOINT, init_from=self.folder / "nowhere")

    def test_a_damaged_source_is_seen(self):
        damaged = self.new_run()
        shutil.copytree(self.source, damaged)
        tensor, part, offset = piece_of(damaged / "checkpoints" / "step-00000020", "parameters", 1)
        flip_bit(part, offset)
        problem = f"tensor '{tensor}' is damaged in file '.*part-00001.*' at offset {offset}"
        self.refuses(problem, code=CHECKPOINT, ranks=2, init_from=damaged)


if __name__ == "__main__":
    programs.main()

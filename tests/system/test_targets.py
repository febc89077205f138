"""What a model is trained towards: several labels per image, label smoothing, mixup."""

import json
import unittest

import programs
from programs import DATA, USAGE, Programs


class Targets(Programs):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.several = cls.folder / "several"
        cls.pack_several_labels(cls.several / "train", 160, seed=3)
        cls.pack_several_labels(cls.several / "test", 52, seed=4)

    def digest(self, ranks, *, run=None, **settings):
        run = run or self.new_run()
        self.train(ranks, run=run, digest=True, **settings)
        return self.summary(run)["digest"]

    def results(self, ranks, run, **settings):
        self.evaluate(ranks, run=run, **settings)
        return json.loads((run / "evaluation.json").read_text())

    def test_several_labels_per_image_are_learned_with_the_sigmoid_loss(self):
        run = self.new_run()
        settings = {"data": self.several, "loss": "sigmoid", "steps": 120, "learning_rate": 0.02}
        job = self.train(2, run=run, **settings)
        self.assertRegex(job.said, "several/train: 160 images, 5 classes, up to [45] labels each; 120 steps")
        losses = [line["loss"] for line in self.metrics(run)]
        self.assertLess(losses[-1], 0.7 * losses[0])
        alone = self.results(0, run, data=self.several, loss="sigmoid")
        self.assertEqual(alone["images"], 52)
        self.assertGreater(alone["test_accuracy"], 0.75)  # chance is 0.4; images without labels are never right
        self.assertEqual(self.results(2, run, data=self.several, loss="sigmoid", expert_parallel=2), alone)
        # Data with one label per image fits the model too. A class of its own for every image is another matter.
        self.assertEqual(self.results(0, run)["images"], 52)
        few = {"few_shot": 1, "few_shot_train": self.several, "few_shot_test": self.several}
        job = self.evaluate(0, run=run, code=DATA, **few)
        self.expect_one_error(job, "several/train has up to [45] labels per image", "few-shot evaluation .*")

    def test_several_labels_give_the_same_bits_on_every_layout(self):
        settings = {"data": self.several, "loss": "sigmoid", "label_smoothing": 0.1}
        alone = self.digest(0, **settings)
        self.assertEqual(self.digest(0, leaves_per_pass=1, **settings), alone)
        self.assertEqual(self.digest(2, **settings), alone)
        self.assertNotEqual(self.digest(0, data=self.several, loss="sigmoid"), alone)

    def test_mixup_gives_the_same_bits_on_every_layout_and_after_resumption(self):
        seen = set()
        for draw in ("step", "leaf", "image"):
            settings = {"mixup": 0.5, "mixup_draw": draw, "mixup_images": 3}
            alone = self.digest(0, **settings)
            self.assertEqual(self.digest(2, **settings), alone)
            run = self.new_run()
            self.train(0, run=run, stop_after=3, **settings)
            self.assertEqual(self.digest(2, run=run, resume=True, expert_parallel=1, **settings), alone)
            seen.add(alone)
        seen.add(self.digest(0))
        self.assertEqual(len(seen), 4)

    def test_mixup_learns(self):
        run = self.new_run()
        self.train(2, run=run, steps=60, learning_rate=0.02, mixup=0.2, label_smoothing=0.1)
        self.assertGreater(self.results(0, run)["test_accuracy"], 0.4)  # chance is 0.2

    def test_a_run_with_other_targets_is_not_resumed(self):
        run = self.new_run()
        self.train(0, run=run, stop_after=1, label_smoothing=0.1)
        job = self.train(0, run=run, code=USAGE, resume=True, label_smoothing=0.2)
        self.expect_one_error(job, "cannot be resumed from .* with --label-smoothing 0.2", advice="Resume with the old .*")

    def test_impossible_targets_are_refused(self):
        self.refused(USAGE, "--label-smoothing 1", "it is the part of a label that goes to all classes alike, in .*",
                     ranks=2, label_smoothing=1)
        self.refused(USAGE, "--label-smoothing -0.1", label_smoothing=-0.1)
        self.refused(USAGE, "--mixup -1", "the concentration is a number from 0 up", mixup=-1)
        self.refused(USAGE, "--mixup-images 9", "an image is mixed with at least one other of its leaf of 8",
                     "Use fewer, or a larger --leaf-images", ranks=2, mixup=0.2, mixup_images=9)
        self.refused(USAGE, "'laef' is not a value of --mixup-draw", advice="Did you mean 'leaf'\\?", mixup_draw="laef")


if __name__ == "__main__":
    programs.main()

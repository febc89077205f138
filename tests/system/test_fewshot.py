"""vitrail-eval --few-shot: the same numbers on every layout, several data sets, and settings that make no sense."""

import json
import unittest

import programs
from programs import DATA, USAGE, Programs


class FewShot(Programs):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Other classes than the model was trained on.
        cls.other = cls.folder / "other"
        cls.pack(cls.other / "train", 60, seed=7, classes=3)
        cls.pack(cls.other / "test", 41, seed=8, classes=3)
        cls.run_dir = cls.folder / "trained"

    def setUp(self):
        if not self.run_dir.exists():
            self.train(2, run=self.run_dir, steps=20, learning_rate=0.02, capacity_factor=0.5)

    def few_shot(self, ranks=0, **settings):
        output = self.folder / "results.json"
        merged = {"few_shot": [1, 5, 25], "few_shot_train": self.data, "few_shot_test": self.data, **settings}
        job = self.evaluate(ranks, run=self.run_dir, output=output, **merged)
        return json.loads(output.read_text())["few_shot"], job.said

    def test_accuracies_of_every_data_set_share_their_regularisation(self):
        both = [self.data, self.other]
        results, said = self.few_shot(few_shot_train=both, few_shot_test=both)
        self.assertEqual(results["shots"], [1, 5, 25])
        self.assertEqual(results["l2"], [2.0**exponent for exponent in range(-10, 20)])
        self.assertEqual([one["train"] for one in results["data_sets"]], ["data/train", "other/train"])
        self.assertEqual([one["test_images"] for one in results["data_sets"]], [52, 41])
        self.assertEqual([one["classes"] for one in results["data_sets"]], [5, 3])
        for place, shots in enumerate(results["shots"]):
            best = results["l2"].index(results["best_l2"][place])
            for one in results["data_sets"]:
                found = one["results"][f"{shots}shot"]
                self.assertEqual(found["accuracy"], found["accuracy_by_seed_and_l2"][0][best])
                self.assertRegex(said, rf"{one['test']} .* {100 * found['accuracy']:.2f} %")
        # Chance is 0.2 and 0.33; brightness, by which the classes differ, survives a model that has learned little.
        for one in results["data_sets"]:
            self.assertGreater(one["results"]["25shot"]["accuracy"], 0.6)

    def test_every_layout_gives_the_same_numbers(self):
        alone, _ = self.few_shot()
        for ranks, width, leaves in ((1, 1, 2), (2, 2, 1), (3, 1, 1)):
            with self.subTest(ranks=ranks, width=width, leaves=leaves):
                self.assertEqual(self.few_shot(ranks, expert_parallel=width, leaves_per_pass=leaves)[0], alone)

    def test_routing_may_be_another_than_in_training(self):
        as_trained, _ = self.few_shot()
        roomy, _ = self.few_shot(capacity_factor=4)
        self.assertNotEqual(roomy, as_trained)

    def test_several_seeds_are_averaged(self):
        of_seed = [self.few_shot(few_shot_seeds=seed)[0] for seed in (3, 4)]
        both, said = self.few_shot(few_shot_seeds=[3, 4])
        self.assertIn("mean of 2 choices of images", said)
        self.assertNotEqual(of_seed[0]["data_sets"], of_seed[1]["data_sets"])
        for shots, l2 in zip(both["shots"], both["best_l2"]):
            found = both["data_sets"][0]["results"][f"{shots}shot"]
            tables = [one["data_sets"][0]["results"][f"{shots}shot"]["accuracy_by_seed_and_l2"][0] for one in of_seed]
            self.assertEqual(found["accuracy_by_seed_and_l2"], tables)
            best = both["l2"].index(l2)
            self.assertAlmostEqual(found["accuracy"], (tables[0][best] + tables[1][best]) / 2, places=12)

    def refuses(self, code, problem, ranks=2, **settings):
        merged = {"few_shot": 1, "few_shot_train": self.data, "few_shot_test": self.data, **settings}
        job = self.evaluate(ranks, run=self.run_dir, code=code, **merged)
        self.expect_one_error(job, problem)

    def test_impossible_settings_are_refused(self):
        self.refuses(USAGE, "--few-shot-train or --few-shot-test without --few-shot", few_shot=None)
        self.refuses(USAGE, "2 paths in --few-shot-train and 1 in --few-shot-test", few_shot_train=[self.data] * 2)
        self.refuses(USAGE, "0 paths in --few-shot-train and 1 in", few_shot_train=None)
        self.refuses(USAGE, "--few-shot 0", few_shot=[5, 0])

    def test_data_that_does_not_fit_is_refused(self):
        self.refuses(DATA, "data/train has 5 classes, other/test 3", few_shot_test=self.other)
        small = self.folder / "small"
        self.pack(small / "test", 20, height=8)
        self.refuses(DATA, "small/test has images of 8x8x1", few_shot_test=small)


if __name__ == "__main__":
    programs.main()

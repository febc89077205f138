"""vitrail-eval: the same numbers on every layout, and a model under other routing than it was trained with."""

import json
import unittest

import programs
from programs import USAGE, Programs


class Evaluate(Programs):
    def setUp(self):
        self.run_dir = self.folder / "trained"
        if not self.run_dir.exists():
            # Capacity is scarce, so that order and room matter.
            self.train(2, run=self.run_dir, steps=30, learning_rate=0.02, capacity_factor=0.5)

    def results(self, ranks=1, **settings):
        output = self.folder / f"results-{self.id().rsplit('.', 1)[1]}.json"
        self.evaluate(ranks, run=self.run_dir, output=output, **settings)
        results = json.loads(output.read_text())
        output.unlink()
        return results

    def test_results_are_a_json_file_in_the_run_directory(self):
        job = self.evaluate(2, run=self.run_dir, expert_parallel=2)
        results = json.loads((self.run_dir / "evaluation.json").read_text())
        (self.run_dir / "evaluation.json").unlink()
        self.assertEqual(results["images"], 52)
        self.assertEqual(results["step"], 30)
        self.assertEqual(results["data"], "data/test")
        self.assertEqual(results["test_accuracy"], results["correct"] / 52)
        self.assertEqual(sum(results["moe"][0]["assigned"]), 52 * 7 * 2)
        self.assertIn(f"test accuracy {100 * results['test_accuracy']:.2f} % ({results['correct']} of 52)", job.said)
        self.assertGreater(results["test_accuracy"], 0.4)  # it has learned: chance is 0.2

    def test_every_layout_gives_the_same_numbers(self):
        alone = self.results(0)
        for ranks, width, leaves in ((1, 1, 2), (2, 1, 1), (2, 2, 1), (4, 2, 1), (3, 1, 1)):
            with self.subTest(ranks=ranks, width=width, leaves=leaves):
                self.assertEqual(self.results(ranks, expert_parallel=width, leaves_per_pass=leaves), alone)

    def test_routing_may_be_another_than_in_training(self):
        as_trained = self.results(0)
        for change in ({"selected": 1}, {"capacity_factor": 2}, {"capacity_slots": 1}, {"token_order": "prioritized"}):
            with self.subTest(**change):
                changed = self.results(0, **change)
                self.assertNotEqual(changed["loss"], as_trained["loss"])
                self.assertEqual(changed, self.results(2, expert_parallel=2, **change))
        self.assertEqual(sum(self.results(0, selected=1)["moe"][0]["assigned"]), 52 * 7)
        self.assertLess(self.results(0, capacity_factor=2)["drop_rate"], as_trained["drop_rate"])

    def test_the_running_average_is_evaluated_instead(self):
        # An average that forgets at once is the weights themselves; a slow one is not.
        for decay, equal in ((1e-12, True), (0.9, False)):
            run = self.new_run()
            self.train(0, run=run, steps=12, learning_rate=0.02, average_decay=decay)
            losses = []
            for average in (True, False):
                output = self.folder / "average.json"
                self.evaluate(0, run=run, output=output, average=average)
                losses.append(json.loads(output.read_text())["loss"])
            self.assertEqual(losses[0] == losses[1], equal, losses)
        job = self.evaluate(0, run=self.run_dir, average=True, code=USAGE)
        self.expect_one_error(job, "holds no running average", advice="Leave --average out")

    def test_the_table_of_capacities_agrees_with_single_evaluations(self):
        table = self.results(2, expert_parallel=2, capacity_table=[0.25, 1.05])["capacity_table"]
        self.assertEqual([row["capacity_factor"] for row in table], [0.25, 1.05])
        for row in table:
            for order in ("vanilla", "prioritized"):
                alone = self.results(0, capacity_factor=row["capacity_factor"], token_order=order)
                self.assertEqual({key: alone[key] for key in row[order]}, row[order])

    def test_a_run_trained_with_slots_is_evaluated_with_a_factor(self):
        run = self.new_run()
        self.train(0, run=run, capacity_slots=3, steps=2)
        self.evaluate(0, run=run)
        self.evaluate(0, run=run, capacity_factor=1)

    def test_impossible_settings_are_refused(self):
        for settings, problem in (
            ({"selected": 9}, "9 experts per token"),
            ({"expert_parallel": 3}, "8 experts are not divisible by --expert-parallel 3"),
            ({"group_images": 3}, "a leaf of 8 images .* is not a whole number of routing groups"),
            ({"capacity_factor": -1}, "capacity factor -1 gives"),
        ):
            with self.subTest(**settings):
                job = self.evaluate(settings.get("expert_parallel", 2), run=self.run_dir, code=USAGE, **settings)
                self.assertEqual(len(job.errors), 1, job.said)
                self.assertRegex(job.errors[0], f"^vitrail-eval: error: {problem}")


if __name__ == "__main__":
    programs.main()

"""vitrail-eval beyond one number: curves of accuracy against capacity, random routers, routing as a file."""

import csv
import json
import math
import unittest
from xml.etree import ElementTree

import programs
from programs import MODEL, USAGE, Programs

SVG = "{http://www.w3.org/2000/svg}"
CAPACITIES = [0.3, 1.05]


def flops(selected, slots):
    """Of an image's forward pass, with all slots in use, and with dense blocks only: the paper's model, 4 blocks."""
    patch, tokens, blocks, sparse, experts, group = 4 * 4, 7, 4, 2, 8, 8 * 7
    width, hidden = MODEL["width"], MODEL["mlp-width"]
    shared = 2 * (tokens - 1) * patch * width + 2 * width * MODEL["classes"]
    shared += blocks * (8 * tokens * width**2 + 4 * tokens**2 * width)
    mlp = 4 * tokens * width * hidden
    routed = (blocks - sparse) * mlp + sparse * (mlp * experts * slots / group + 2 * tokens * width * experts)
    return shared + routed, shared + blocks * mlp


class Sweep(Programs):
    def setUp(self):
        self.run_dir = self.folder / "trained"
        if not self.run_dir.exists():
            settings = {"blocks": 4, "steps": 30, "learning_rate": 0.02, "capacity_multiple": 1}
            self.train(0, run=self.run_dir, capacity_factor=0.5, **settings)

    def results(self, ranks=0, **settings):
        """(what was printed, evaluation.json)."""
        output = self.folder / f"results-{self.id().rsplit('.', 1)[1]}.json"
        said = self.evaluate(ranks, run=self.run_dir, output=output, **settings).said
        results = json.loads(output.read_text())
        output.unlink()
        return said, results

    def rows(self, file):
        with file.open(newline="") as lines:
            return list(csv.DictReader(lines))

    def swept(self, ranks=0, **settings):
        """(what was printed, evaluation.json, rows of the CSV)."""
        said, results = self.results(ranks, sweep=True, **settings)
        rows = self.rows(self.run_dir / "sweep.csv")
        return said, results, rows

    def test_rows_equal_single_evaluations_on_every_layout(self):
        settings = {"sweep_capacities": CAPACITIES, "sweep_orders": ["vanilla", "prioritized"]}
        _, results, rows = self.swept(2, expert_parallel=2, **settings)
        self.assertEqual(len(rows), 8)
        for row, again in zip(rows, results["sweep"]):
            self.assertEqual({name: str(value) for name, value in again.items()}, row)
            selected, slots = int(row["selected"]), int(row["slots"])
            with self.subTest(selected=selected, order=row["order"], capacity=row["capacity_factor"]):
                single = {"selected": selected, "token_order": row["order"], "capacity_factor": row["capacity_factor"]}
                _, alone = self.results(0, **single)
                for name, other in (("accuracy", "accuracy"), ("loss", "loss"), ("drop_rate", "drop_rate")):
                    self.assertEqual(float(row[name]), alone[other])
                self.assertEqual(float(row["processed"]), alone["processed_rate"])
                self.assertEqual(slots, math.ceil(8 * 7 * selected * float(row["capacity_factor"]) / 8))
                sparse, dense = flops(selected, slots)
                self.assertAlmostEqual(float(row["flops_per_image"]) / sparse, 1, 12)
                self.assertAlmostEqual(float(row["flops_relative"]) / (sparse / dense), 1, 12)
        for ranks, leaves in ((0, 2), (2, 1), (3, 1)):
            self.assertEqual(self.swept(ranks, leaves_per_pass=leaves, **settings)[2], rows)

    def test_numbers_of_tokens_add_up(self):
        _, results = self.results(0, selected=1, capacity_factor=0.5)
        for block in results["moe"]:
            self.assertEqual(block["processed"], sum(block["kept"]))
            self.assertEqual(sum(block["assigned"]), 52 * 7)
        self.assertNotEqual(results["moe"][0]["assigned"], results["moe"][1]["assigned"])
        processed = sum(block["processed"] for block in results["moe"])
        self.assertEqual(results["processed_rate"], processed / (2 * 52 * 7))
        self.assertEqual(self.results(0, selected=1, capacity_factor=8)[1]["processed_rate"], 1)

    def test_the_chart_shows_every_row(self):
        said, _, rows = self.swept(0)
        orders = ("vanilla", "prioritized", "reversed", "random")
        self.assertEqual(len(rows), 2 * len(orders) * 14)
        self.assertEqual(said.count("\n  2   random "), 14)
        root = ElementTree.parse(self.run_dir / "sweep.svg").getroot()
        legend = [text.text for text in root.iter(SVG + "text") if text.get("class") == "legend"]
        self.assertEqual(legend, [f"K = {k}, {order}" for k in (1, 2) for order in orders])
        points = [path for path in root.iter(SVG + "path") if path.get("class") == "point"]
        values = [(float(point.get("data-x")), float(point.get("data-y"))) for point in points]
        self.assertEqual(values, [(float(row["capacity_factor"]), 100 * float(row["accuracy"])) for row in rows])
        # Where the ticks stand says where values stand: logarithmic along x, linear along y.
        for axis, scale in (("x", math.log), ("y", float)):
            ticks = [text for text in root.iter(SVG + "text") if text.get("class") == f"{axis}-tick"]
            shift = 0 if axis == "x" else 4.5  # a text's foot
            places = [(scale(float(tick.text)), float(tick.get(axis)) - shift) for tick in ticks]
            (low, begin), (high, end) = places[0], places[-1]
            for value, point in zip(values, points):
                place = point.get("transform").removeprefix("translate(").removesuffix(")").split(" ")
                wanted = begin + (end - begin) * (scale(value["xy".index(axis)]) - low) / (high - low)
                self.assertAlmostEqual(float(place["xy".index(axis)]), wanted, delta=0.03)

    def test_files_go_where_they_are_named(self):
        checkpoint = next((self.run_dir / "checkpoints").glob("step-*"))
        files = {"sweep_csv": self.folder / "a.csv", "sweep_svg": self.folder / "a.svg"}
        settings = {"sweep": True, "sweep_capacities": 1, "sweep_selected": 1, "sweep_orders": "vanilla"}
        self.evaluate(0, run=None, checkpoint=checkpoint, **files, **settings)
        self.assertEqual(len(self.rows(self.folder / "a.csv")), 1)
        self.assertTrue((self.folder / "a.svg").read_text().startswith("<svg "))
        for file in files.values():
            file.unlink()

    def test_capacities_without_a_slot_are_left_out(self):
        settings = {"capacity_rounding": "floor", "sweep_orders": "vanilla"}
        said, _, rows = self.swept(2, expert_parallel=2, sweep_capacities=[1, 0.1], **settings)
        self.assertEqual([(row["selected"], row["slots"]) for row in rows], [("1", "7"), ("2", "1"), ("2", "14")])
        self.assertEqual(said.count("left out: capacity factor 0.1 gives 0 slots"), 1)
        said, results = self.results(0, capacity_table=[0.01, 1], **settings | {"sweep_orders": None})
        self.assertEqual([row["slots"] for row in results["capacity_table"]], [14])
        job = self.evaluate(0, run=self.run_dir, code=USAGE, sweep=True, sweep_capacities=0.01, **settings)
        self.expect_one_error(job, "no capacity of the sweep gives a slot")

    def test_one_random_router_after_the_other(self):
        _, results = self.results(2, expert_parallel=2, random_each=True)
        rows = self.rows(self.run_dir / "random.csv")
        self.assertEqual([row["random_block"] for row in rows], ["", "1", "3"])
        self.assertEqual([row["random_block"] for row in results["random_each"]], [None, 1, 3])
        for row in rows:
            _, alone = self.results(0, random_blocks=row["random_block"] or None)
            for name, other in (("accuracy", "accuracy"), ("loss", "loss"), ("processed", "processed_rate")):
                self.assertEqual(float(row[name]), alone[other])

    def test_experts_that_choose_have_one_curve(self):
        run = self.new_run()
        self.train(0, run=run, blocks=4, steps=4, router="experts-choice", capacity_multiple=1)
        self.evaluate(2, run=run, expert_parallel=2, sweep=True, sweep_capacities=CAPACITIES)
        rows = self.rows(run / "sweep.csv")
        self.assertEqual([(row["selected"], row["order"]) for row in rows], [("8", "experts-choice")] * 2)
        self.assertEqual([row["slots"] for row in rows], ["3", "8"])
        for row in rows:
            self.evaluate(0, run=run, capacity_factor=row["capacity_factor"])
            alone = json.loads((run / "evaluation.json").read_text())
            self.assertEqual(float(row["loss"]), alone["loss"])
            self.assertEqual(float(row["processed"]), alone["processed_rate"])
            self.assertEqual(float(row["drop_rate"]), 0)
            self.assertAlmostEqual(float(row["flops_per_image"]) / flops(8, int(row["slots"]))[0], 1, 12)
        file = self.folder / "choices.h5"
        self.evaluate(2, run=run, dump_routing=file)
        self.assertGreater(file.stat().st_size, 2 * 52 * 7 * 8 * (4 + 4 + 4 + 4 + 1))  # every expert of every token

    def test_soft_moe_is_refused_what_it_has_not(self):
        run = self.new_run()
        self.train(0, run=run, blocks=4, steps=2, router="soft")
        for settings in ({"sweep": True}, {"capacity_table": 1}, {"random_each": True}, {"dump_routing": "a.h5"}):
            with self.subTest(**settings):
                job = self.evaluate(2, run=run, code=USAGE, **settings)
                self.expect_one_error(job, f"--{next(iter(settings)).replace('_', '-')} of a Soft MoE")
        self.evaluate(0, run=run)
        self.assertEqual(json.loads((run / "evaluation.json").read_text())["processed_rate"], 1)

    def test_a_dump_changes_no_result(self):
        file = self.folder / "routing.h5"
        said, results = self.results(2, expert_parallel=2, dump_routing=file)
        self.assertIn(f"routing: {file}", said)
        self.assertEqual(results, self.results(0)[1])
        whole = file.stat().st_size
        self.assertGreater(whole, 2 * 52 * 7 * 4 * 8)  # the gates of two blocks alone
        self.results(0, dump_routing=file, dump_images=1000)
        self.assertEqual(file.stat().st_size, whole)
        self.results(0, dump_routing=file, dump_images=2)
        self.assertLess(file.stat().st_size, whole / 2)
        self.assertFalse(file.with_name("routing.h5.tmp").exists())

    def test_impossible_settings_are_refused(self):
        for settings, problem, why, advice in (
            ({"sweep": True, "sweep_selected": 9}, "--sweep-selected 9", "the model has 8 experts", "Use 1 to 8"),
            ({"sweep": True, "sweep_capacities": [1, -1]}, "a capacity factor of -1 in --sweep", ".+ positive", ""),
            ({"sweep_orders": "random"}, "--sweep-orders without --sweep", ".+", "Add --sweep"),
            ({"random_blocks": [1, 2]}, "--random-blocks 2: this block has no router", ".* 1 and 3", ".* 1 or 3.*"),
            ({"random_each": True, "random_blocks": 1}, "--random-each and --random-blocks", ".+", ".+"),
            ({"dump_images": 3}, "--dump-images without --dump-routing", ".+", ".+"),
            ({"dump_routing": "no/folder/a.h5"}, "'no/folder/a.h5' cannot be written", ".+", ".+"),
        ):
            with self.subTest(**settings):
                self.expect_one_error(
                    self.evaluate(2, run=self.run_dir, code=USAGE, **settings), problem, why, advice
                )

    def test_dense_models_are_refused(self):
        run = self.new_run()
        self.train(0, run=run, moe="none", steps=2)
        for settings in ({"sweep": True}, {"random_each": True}, {"random_blocks": 1}, {"dump_routing": "a.h5"}):
            with self.subTest(**settings):
                job = self.evaluate(0, run=run, code=USAGE, **settings)
                self.expect_one_error(job, f"--{next(iter(settings)).replace('_', '-')} of a dense model")


if __name__ == "__main__":
    programs.main()

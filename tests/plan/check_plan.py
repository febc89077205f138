#!/usr/bin/env python3
"""Runs vitrail-plan as its users do.

    check_plan.py PROGRAM

What is seen is that tables and JSON say the same, that totals are those of the tensors, that options count, and that bad
ones end with one clear line. That the numbers are the paper's is seen by the unit tests of the presets.
"""

import json
import math
import subprocess
import sys
import unittest

USAGE = 2


class Plan(unittest.TestCase):
    program = None

    def run_program(self, *words, code=0):
        done = subprocess.run([self.program, *words], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def model(self, *words):
        return json.loads(self.run_program("model", *words, "--json"))

    def test_totals_are_those_of_the_tensors(self):
        plan = self.model("v-moe-b16-every2")
        for tensor in plan["tensors"]:
            self.assertEqual(math.prod(tensor["shape"]), tensor["parameters"], tensor["name"])
        count = {kind: 0 for kind in ("dense", "expert")}
        for tensor in plan["tensors"]:
            count[tensor["kind"]] += tensor["parameters"]
        self.assertEqual(plan["parameters"], 978_974_835)
        self.assertEqual((plan["dense_parameters"], plan["expert_parameters"]), (count["dense"], count["expert"]))
        self.assertEqual(plan["active_parameters"], count["dense"] + count["expert"] * 2 // 32)
        self.assertEqual(plan["moe_blocks"], [1, 3, 5, 7, 9, 11])
        self.assertEqual((plan["tokens"], plan["experts"]), (197, 32))

    def test_training_costs_three_forward_passes_an_image(self):
        for words, images, steps in (
            (("vit-b16",), 7 * 305_000_000, 521_241),
            (("vit-b16", "--examples", "1000", "--batch", "64"), 7000, 110),
            (("vit-b16", "--steps", "10"), 40_960, 10),
            (("v-moe-b16-every2-cifar10-finetune",), 1_024_000, 1000),
        ):
            plan = self.model(*words)
            self.assertEqual((plan["training_images"], plan["training_steps"]), (images, steps), words)
            self.assertAlmostEqual(plan["training_exaflops"], 3e-9 * plan["forward_gflops_per_image"] * images)

    def test_options_change_what_is_planned(self):
        whole = self.model("v-moe-h14-last5")
        one = self.model("v-moe-h14-last5", "--selected", "1")
        self.assertEqual(one["parameters"], whole["parameters"])
        self.assertLess(one["active_parameters"], whole["active_parameters"])
        self.assertLess(one["forward_gflops_per_image"], whole["forward_gflops_per_image"])
        self.assertEqual(self.model("--moe", "none", "--preset", "v-moe-h14-last5")["experts"], 0)

    def test_tables_say_what_the_json_says(self):
        plan = self.model("v-moe-s32-last2")
        said = self.run_program("model", "v-moe-s32-last2")
        rows = {words[0]: line for line in said.splitlines() if (words := line.split())}
        for tensor in plan["tensors"]:
            row = rows[tensor["name"]]
            for cell in (str(tensor["shape"]), f" {tensor['parameters']:,} ", tensor["kind"], tensor["initializer"]):
                self.assertIn(cell, row)
        for total in ("dense_parameters", "expert_parameters", "parameters", "active_parameters"):
            self.assertRegex(said, rf"(?m)^{total.replace('_', ' ')} +{plan[total]:,}$")
        self.assertRegex(said, rf"(?m)^forward GFLOPs of an image +{plan['forward_gflops_per_image']:.2f}$")
        self.assertRegex(said, rf"(?m)^ExaFLOPs of the training +{plan['training_exaflops']:.2f}$")

    def test_models_lists_every_preset_once(self):
        models = json.loads(self.run_program("models", "--json"))["models"]
        rows = [line.split() for line in self.run_program("models").splitlines()[1:]]
        self.assertEqual([row[0] for row in rows], [model["preset"] for model in models])
        self.assertEqual(len({row[0] for row in rows}), len(rows))
        for name in ("fmnist", "vit-h14", "v-moe-15b", "v-moe-b16-every2-cifar10-finetune"):
            self.assertIn(name, [row[0] for row in rows])
        for row, model in zip(rows, models):
            self.assertEqual(row[-4], f"{model['parameters'] / 1e6:.1f}")
            self.assertEqual({**model}, {key: self.model(row[0])[key] for key in model}, row[0])

    def test_bad_options_end_with_one_clear_line(self):
        for words, expected in (
            ((), "no command"),
            (("modelss",), "Did you mean 'models'"),
            (("model",), "no preset is named"),
            (("model", "vit-s33"), "Did you mean 'vit-s32'"),
            (("model", "--preset", "vit-s33"), "Did you mean 'vit-s32'"),
            (("model", "vit-s32", "vit-b32"), "2 presets are named"),
            (("model", "vit-s32", "--widht", "8"), "Did you mean 'width'"),
            (("model", "vit-s32", "--heads", "7"), "not divisible by 7 heads"),
            (("model", "vit-s32", "--examples", "0"), "--examples 0"),
            (("models", "--jsno"), "Did you mean 'json'"),
        ):
            said = self.run_program(*words, code=USAGE)
            self.assertTrue(said.startswith("vitrail-plan: error: "), said)
            self.assertEqual(len(said.splitlines()), 1, said)
            self.assertIn(expected, said)

    def test_help_teaches(self):
        self.assertIn("vitrail-plan models", self.run_program("--help"))
        for command in ("model", "models"):
            said = self.run_program(command, "--help")
            self.assertIn("Exit codes", said)
            self.assertIn("--json", said)
        self.assertRegex(self.run_program("--version"), r"^vitrail-plan \(Vitrail\) \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    Plan.program = sys.argv[1]
    unittest.main(argv=sys.argv[:1], verbosity=2)

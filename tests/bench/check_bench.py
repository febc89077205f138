#!/usr/bin/env python3
"""Runs vitrail-bench as its users do.

    check_bench.py PROGRAM MPIRUN...      ({ranks} among the words stands for their number)

Small sizes, so the speeds mean nothing: what is seen is that every command runs on one and two ranks, that its lines are
JSON with the documented keys, that their numbers fit each other, and that bad options end with one clear line.
"""

import json
import math
import subprocess
import sys
import unittest

USAGE = 2
SMALL = "--batch 16 --leaf-images 8 --steps 2 --warmup 0 --seconds 0.01".split()


MEMORY_CLASSES = ("parameters", "gradients", "optimizer", "activations", "workspace")


class Bench(unittest.TestCase):
    program = None
    launch = None

    def run_program(self, *words, ranks=1, code=0):
        start = [word.replace("{ranks}", str(ranks)) for word in self.launch] if ranks > 1 else []
        done = subprocess.run([*start, self.program, *words], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def lines(self, *words, ranks=1):
        """The program's lines, every one a JSON object."""
        return [json.loads(line) for line in self.run_program(*words, "--json", ranks=ranks).splitlines()]

    def step(self, *words, ranks=1):
        records = self.lines("step", *SMALL, *words, ranks=ranks)
        self.assertEqual(len(records), 1)
        return records[0]

    def assert_speed_fits(self, record):
        gflop = record["train_gflop_per_image"]
        self.assertAlmostEqual(record["images_per_s"], record["batch"] / record["step_s"], delta=1e-6 * record["images_per_s"])
        self.assertAlmostEqual(record["gflops"], gflop * record["images_per_s"], delta=1e-6 * record["gflops"])
        self.assertAlmostEqual(record["fraction_of_peak"], record["gflops"] / record["peak_gflops"], places=9)
        self.assertLessEqual(record["step_s_min"], record["step_s"])
        self.assertGreater(record["copy_GBps"], 0)
        self.assertGreater(record["first_step_s"], 0)
        self.assertGreater(record["peak_rss_GiB"], 0.005)
        self.assertLess(record["peak_rss_GiB"], 2)
        self.assertGreaterEqual(record["peak_rss_total_GiB"], record["peak_rss_GiB"])
        classes = [record["memory"][f"{name}_GiB"] for name in MEMORY_CLASSES]
        self.assertAlmostEqual(sum(classes), record["memory"]["planned_GiB"], places=9)
        self.assertGreater(min(classes), 0)

    def test_step_reports_the_documented_keys(self):
        record = self.step()
        self.assertEqual((record["bench"], record["impl"], record["model"]), ("train_step", "vitrail", "fmnist"))
        self.assertEqual((record["dtype"], record["device"], record["ranks"]), ("f32", "cpu", 1))
        self.assertEqual((record["leaf_images"], record["leaves"], record["leaves_per_pass"], record["passes"]), (8, 2, 2, 1))
        self.assertAlmostEqual(record["train_gflop_per_image"], 0.0446, places=4)  # the model's formula
        self.assertNotEqual(record["loss_first"], record["loss_last"])
        self.assertTrue(0 <= record["drop_rate"] < 0.5)
        self.assertGreater(record["tensors_changed"], 30)
        self.assertNotIn("profile", record)
        self.assert_speed_fits(record)

    def test_step_trains_to_the_same_bits_on_every_layout(self):
        one = self.step()
        for record in (
            self.step("--leaves-per-pass", "1"),
            self.step("--threads", "2", "--profile"),
            self.step("--recompute", "mlp"),
            self.step("--recompute", "block"),
            self.step(ranks=2),
            self.step("--expert-parallel", "2", ranks=2),
        ):
            self.assert_speed_fits(record)
            for key in ("loss_first", "loss_last", "drop_rate"):
                self.assertEqual(record[key], one[key])
        other_leaf = self.step("--leaf-images", "16")
        self.assertNotEqual(other_leaf["loss_last"], one["loss_last"])

    def test_bf16_rounds_and_keeps_the_bits_of_every_layout(self):
        f32, bf16 = self.step(), self.step("--precision", "bf16")
        self.assertEqual((f32["precision"], bf16["precision"]), ("f32", "bf16"))
        self.assertNotEqual(bf16["loss_first"], f32["loss_first"])
        self.assertAlmostEqual(bf16["loss_first"], f32["loss_first"], delta=1e-2)
        for words, ranks in ((("--threads", "2"), 1), (("--leaves-per-pass", "1"), 1), (("--expert-parallel", "2"), 2)):
            again = self.step("--precision", "bf16", *words, ranks=ranks)
            self.assertEqual((again["loss_first"], again["loss_last"]), (bf16["loss_first"], bf16["loss_last"]))

    def test_profile_names_every_verb_once_and_adds_up(self):
        for words, ranks in (((), 1), (("--expert-parallel", "2"), 2)):
            record = self.step("--profile", *words, ranks=ranks)
            lines = record["profile"]
            names = [line["name"] for line in lines]
            self.assertEqual(len(names), len(set(names)))
            for name in ("mlp_forward", "mlp_backward", "qkv_forward", "attention_backward", "adamw_step", "route_top_k"):
                self.assertIn(name, names)
            self.assertAlmostEqual(sum(line["share"] for line in lines), 1, delta=0.05)
            self.assertEqual({line["name"]: line["calls"] for line in lines}["attention_forward"], 2)  # fmnist: 2 blocks
            for line in lines:
                if "fraction_of_ceiling" in line:
                    self.assertEqual(line["ceiling"], "gemm" if "gflop" in line else "copy")
                    self.assertGreater(line["fraction_of_ceiling"], 0)
            if ranks == 2:
                moved = next(line for line in lines if line["name"] == "expert ranks all_to_all")
                self.assertEqual(moved["calls"], 4)  # two forward, two backward, one sparse block
                self.assertEqual(moved["bytes"], 4 * record["exchange_bytes_per_pair"])

    def test_counted_products_are_those_of_the_formula(self):
        """All but the gradient of the images, which nobody needs; experts work on whole slots."""
        batch, patches, patch, width, mlp = 16, 49, 16, 64, 256
        images_gradient = 2 * patches * patch * width * batch
        dense = self.step("--moe", "none", "--profile")
        useful = dense["train_gflop_per_image"] * batch
        self.assertAlmostEqual(dense["executed_gflop_per_step"], useful - 1e-9 * images_gradient, places=9)
        for ranks, words in ((1, ()), (2, ("--expert-parallel", "2"))):
            sparse = self.step("--profile", *words, ranks=ranks)
            tokens, experts, groups = 400, 8, batch // 8
            slots = math.ceil(math.ceil(tokens * 2 * 1.05 / experts) / 4) * 4
            more_rows = groups * experts * slots - groups * tokens * 2 * 1.05
            expected = sparse["train_gflop_per_image"] * batch + 1e-9 * (3 * 4 * width * mlp * more_rows - images_gradient)
            self.assertAlmostEqual(sparse["executed_gflop_per_step"], expected, places=9)

    def test_step_takes_known_models_and_overrides(self):
        record = self.step("--model", "s32", "--blocks", "2", "--width", "64", "--mlp-width", "96", "--experts", "4",
                           "--classes", "7", "--batch", "8")
        self.assertEqual(record["model"], "s32")
        self.assertLess(record["params_M"], 1)
        self.assertEqual(record["batch"], 8)

    def test_memory_is_what_was_planned(self):
        """A model of half a GiB, so that what is not planned is small beside it."""
        planned = []
        for words in ((), ("--precision", "bf16"), ("--recompute", "mlp"), ("--recompute", "block")):
            record = self.step("--model", "s32", "--blocks", "4", "--leaf-images", "16", "--threads", "2", *words)
            memory = record["memory"]
            self.assertGreater(memory["planned_GiB"], 0.4)
            self.assertGreater(memory["program_GiB"], 0)
            used = record["peak_rss_GiB"] - memory["program_GiB"]
            self.assertAlmostEqual(used / memory["planned_GiB"], 1, delta=0.05)
            planned.append(memory["activations_GiB"])
        full, in_bf16, mlp, block = planned
        self.assertGreater(full, in_bf16)
        self.assertGreater(full, mlp)
        self.assertGreater(mlp, block)

    def test_step_runs_on_the_reference(self):
        record = self.step("--backend", "reference", "--width", "8", "--mlp-width", "8", "--batch", "8", "--profile")
        self.assertEqual((record["backend"], record["dtype"]), ("reference", "f64"))

    def test_tables_for_people(self):
        said = self.run_program("step", *SMALL, "--threads", "1")
        for words in ("2 leaves of 8", "images/s", "GEMM peak", "mlp_backward", "between the calls", "dropped"):
            self.assertIn(words, said)
        said = self.run_program("step", *SMALL, "--profile=false")
        self.assertNotIn("mlp_backward", said)
        self.assertIn("agree with a plain loop", self.run_program("gemm", "--batch", "16", "--leaf-images", "8", "--seconds", "0.01"))
        self.assertIn("Every part arrived", self.run_program("exchange", "--bytes", "64", "--seconds", "0.01"))

    def test_layouts_are_all_that_fill_the_machine_and_the_fastest_is_named(self):
        step = ("--", *SMALL, "--experts", "4")
        said = self.run_program("layouts", "--json", "--cpus", "2", "--rounds", "2", *step)
        records = [json.loads(line) for line in said.splitlines()]
        layouts = [(record["ranks"], record["threads"], record["expert_parallel"]) for record in records]
        self.assertEqual(layouts, 2 * [(1, 2, 1), (2, 1, 1), (2, 1, 2)])
        self.assertEqual(len({record["loss_last"] for record in records}), 1)
        said = self.run_program("layouts", "--cpus", "3", "--rounds", "1", *step)  # 2 leaves are not for 3 ranks
        self.assertIn("not divisible", said)
        self.assertIn("fastest: 1 rank, --threads 3 --expert-parallel 1", said)

    def test_gemm(self):
        for ranks, experts_here in ((1, 8), (2, 4)):
            lines = self.lines("gemm", "--batch", "16", "--leaf-images", "8", "--seconds", "0.01",
                               "--expert-parallel", str(ranks), ranks=ranks)
            self.assertEqual(lines[0]["kind"], "ceiling")
            self.assertEqual(lines[0]["ranks"], ranks)
            self.assertGreater(lines[0]["copy_GBps"], 0)
            squares = [line for line in lines if line["kind"] == "square"]
            self.assertEqual({line["by"] for line in squares}, {"linear_forward", "oneDNN"})
            self.assertAlmostEqual(max(line["fraction_of_peak"] for line in squares), 1, places=9)
            products = [line for line in lines if line["kind"] == "product"]
            self.assertEqual(len(squares) + len(products) + 1, len(lines))
            experts = [line for line in products if line["name"] == "experts in"]
            self.assertEqual([line["verb"] for line in experts], ["forward", "backward"])
            for line in experts:
                self.assertEqual((line["experts"], line["in"], line["out"]), (experts_here, 64, 256))
                self.assertEqual(line["leaves"] * line["experts"], 2 * 8 if ranks == 1 else 2 * 4)
                self.assertTrue(line["checked"])
                self.assertAlmostEqual(line["fraction_of_peak"], line["gflops"] / lines[0]["peak_gflops"], places=9)

    def test_gemm_in_bf16_is_checked_with_rounded_inputs(self):
        words = "--batch 16 --leaf-images 8 --seconds 0.01 --precision bf16".split()
        lines = self.lines("gemm", *words)
        self.assertEqual(lines[0]["precision"], "bf16")
        self.assertAlmostEqual(max(line["fraction_of_peak"] for line in lines if line["kind"] == "square"), 1, places=9)
        self.assertTrue(all(line["checked"] for line in lines if line["kind"] == "product"))
        self.assertIn("bf16 GEMM peak", self.run_program("gemm", *words))

    def test_exchange(self):
        for ranks, words, width in ((1, (), 1), (2, (), 2), (2, ("--expert-parallel", "1"), 1)):
            lines = self.lines("exchange", "--bytes", "8", "4096", "--seconds", "0.01", *words, ranks=ranks)
            self.assertEqual([line["bytes_per_pair"] for line in lines], [8, 4096])
            for line in lines:
                self.assertEqual((line["ranks"], line["expert_parallel"]), (ranks, width))
                self.assertTrue(line["verified"])
                payload = 1e-3 * line["bytes_per_pair"] * width * ranks / line["median_us"]
                self.assertAlmostEqual(line["payload_GBps"], payload, delta=1e-6 * payload)
                self.assertLessEqual(line["best_us"], line["median_us"])
                self.assertGreater(line["copy_GBps"], 0)
                self.assertGreater(line["ceiling_GBps"], 0)

    def test_bad_options_end_with_one_clear_line(self):
        for words, expected in (
            ((), "no command"),
            (("stepp",), "Did you mean 'step'"),
            (("step", "--preset", "fmnst"), "fmnist"),
            (("step", "--model", "s33"), "s32"),
            (("step", "--bach", "8"), "Did you mean 'batch'"),
            (("step", "--batch", "10"), "not divisible into leaves"),
            (("step", "--steps", "0"), "--steps"),
            (("step", "--threads", "0"), "--threads"),
            (("step", "--experts", "0"), "experts"),
            (("gemm", "--seconds", "0"), "--seconds"),
            (("step", "--backend", "reference", "--precision", "bf16"), "the reference rounds no inputs"),
            (("step", "--precision", "bf61"), "bf16"),
            (("step", "--recompute", "blok"), "Did you mean 'block'"),
            (("step", "--backend", "cuda"), "VITRAIL_CUDA=ON"),
            (("step", "--gpu", "0"), "--gpu"),
            (("step", "--communicator", "nccl"), "--communicator nccl"),
            (("gemm", "--backend", "reference"), "--backend"),
            (("layouts", "--rounds", "0"), "--rounds 0"),
            (("layouts", "--mpirun", "no-such-mpirun", "--cpus", "2", "--", *SMALL), "no-such-mpirun"),
            (("layouts", "--", "--threads", "2"), "--threads behind --"),
            (("layouts", "--cpus", "1", "--", *SMALL, "--experts", "0"), "1 ranks ended with exit code 2"),
            (("exchange", "--bytes", "7"), "--bytes 7"),
            (("exchange", "--expert-parallel", "3"), "--expert-parallel"),
        ):
            said = self.run_program(*words, code=USAGE)
            self.assertEqual(said.count("vitrail-bench: "), 1, said)
            self.assertTrue(said.startswith("vitrail-bench: error: "), said)
            self.assertIn(expected, said.splitlines()[0])
        said = self.run_program("step", *SMALL, "--experts", "7", "--expert-parallel", "2", ranks=2, code=USAGE)
        self.assertIn("7 experts are not divisible", said)

    def test_a_step_that_does_not_train_is_an_error(self):
        said = self.run_program("step", *SMALL, "--learning-rate", "0", "--noise", "0", code=5)
        self.assertIn("--learning-rate", said)

    def test_help_teaches_without_mpi(self):
        self.assertIn("vitrail-bench exchange", self.run_program("--help"))
        for command in ("gemm", "step", "exchange", "layouts"):
            said = self.run_program(command, "--help")
            self.assertIn("Exit codes", said)
            self.assertIn("--json", said)
        self.assertRegex(self.run_program("--version"), r"^vitrail-bench \(Vitrail\) \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    Bench.program = sys.argv[1]
    Bench.launch = sys.argv[2:]
    unittest.main(argv=sys.argv[:1], verbosity=2)

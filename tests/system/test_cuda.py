"""The programs on an emulated GPU: golden files, training that is killed and resumed, and what they say when
there is no usable GPU."""

import json
import unittest
from pathlib import Path

import programs
from programs import DONE, USAGE, Programs, options

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ENDING = "-emulated"


class Cuda(Programs):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not (programs.programs / f"vitrail-train{ENDING}").exists():
            raise unittest.SkipTest("no Boost.Context: there is no emulated GPU")

    def emulated(self, ranks, program, *words, code=DONE, **environment):
        return self.job(ranks, program + ENDING, *words, code=code, environment=environment)

    def train_on_gpu(self, ranks=1, *, run, code=DONE, environment=None, **settings):
        merged = {name.replace("-", "_"): value for name, value in programs.MODEL.items()}
        merged.update({"data": self.data / "train", "run_dir": run, "backend": "cuda", "steps": 4}, **settings)
        return self.emulated(ranks, "vitrail-train", *options(**merged), code=code, **(environment or {}))

    def golden(self, *names, precision="f32"):
        files = [GOLDEN / f"{name}.h5" for name in names]
        words = ["golden", *files, "--backend", "cuda", "--precision", precision]
        said = self.emulated(0, "vitrail-selftest", *words).said
        self.assertRegex(said, r"== [1-9]\d* passed, 0 failed, 0 unsupported, 0 unreadable")

    def test_golden_files_in_f32(self):
        self.golden("model_k1", "model_gray28", "router_aux", "router_experts_choice", "mixup_wrapper",
                    "optimizer_adam_first_regex", "optimizer_sgd_momentum_clip10", "optimizer_adafactor_default32",
                    "trajectory_adam")

    def test_golden_files_in_bf16(self):
        self.golden("model_k1", "model_bpr", precision="bf16")

    def test_a_run_says_where_it_computes_and_how_ranks_exchange(self):
        said = self.train_on_gpu(run=self.new_run()).said
        self.assertRegex(said, r"gpu +emulated GPU.*; 1 rank alone; CUDA graphs on")
        said = self.train_on_gpu(2, run=self.new_run(), communicator="staged", expert_parallel=2).said
        self.assertRegex(said, r"2 ranks exchange through host memory \(staged: 2 ranks share 1\); CUDA graphs off")
        said = self.train_on_gpu(2, run=self.new_run(), environment={"VITRAIL_EMULATED_DEVICES": "2"}).said
        self.assertRegex(said, r"2 ranks exchange through host memory \(staged\)")  # no NCCL in this build

    def test_kill_and_resume_on_another_layout_end_in_the_same_bits(self):
        for precision in ("f32", "bf16"):
            whole, parts = self.new_run(), self.new_run()
            self.train_on_gpu(run=whole, precision=precision, digest=True)
            self.train_on_gpu(2, run=parts, precision=precision, communicator="staged", expert_parallel=2, stop_after=2)
            self.assertEqual(self.latest_step(parts), 2)
            self.train_on_gpu(run=parts, precision=precision, leaves_per_pass=1, resume=True,
                              digest=True)
            self.assertEqual(self.metrics(whole), self.metrics(parts))
            self.assertEqual(self.summary(whole)["digest"], self.summary(parts)["digest"])

    def test_a_checkpoint_says_which_back_end_wrote_it(self):
        run = self.new_run()
        self.train_on_gpu(run=run, stop_after=2)
        settings = {name.replace("-", "_"): value for name, value in programs.MODEL.items()}
        settings.update(data=self.data / "train", run_dir=run, steps=4, resume=True)
        job = self.job(1, "vitrail-train", *options(**settings))
        self.assertIn("--backend cpu (was cuda): the bits will differ", job.said)
        self.assertEqual(self.latest_step(run), 4)

    def test_evaluation_on_the_gpu_is_that_of_the_cpu(self):
        run = self.new_run()
        self.train_on_gpu(run=run)
        accuracies = []
        for name, backend in (("vitrail-eval" + ENDING, "cuda"), ("vitrail-eval", "cpu")):
            words = options(run_dir=run, data=self.data / "test", backend=backend)
            self.job(1, name, *words)
            accuracies.append(json.loads((run / "evaluation.json").read_text()))
        self.assertEqual(accuracies[0]["test_accuracy"], accuracies[1]["test_accuracy"])
        self.assertAlmostEqual(accuracies[0]["loss"], accuracies[1]["loss"], delta=1e-5)

    def test_bench_holds_verbs_against_three_ceilings(self):
        words = options(backend="cuda", precision="bf16", batch=8, leaf_images=8, steps=2, warmup=0, seconds=0.01,
                        blocks=2, width=32, mlp_width=32, heads=1, experts=4, image_height=8, image_width=8,
                        patch_rows=4, patch_columns=4, json=True, profile=True, peak_tflops=1)
        record = json.loads(self.emulated(1, "vitrail-bench", "step", *words).said.splitlines()[-1])
        self.assertEqual((record["device"], record["communicator"], record["graphs"]), ("cuda", "self", True))
        self.assertGreater(record["device_memory"]["in_use_GiB"], record["device_memory"]["activations_GiB"])
        self.assertAlmostEqual(record["mfu"], record["gflops"] / 1e3, places=9)
        kinds = {kind["name"]: kind for kind in record["profile_kinds"]}
        for name in ("matrix products", "attention forward", "attention backward", "layer norms", "routing", "update"):
            self.assertGreater(kinds[name]["calls"], 0)
        for line in record["profile"]:
            if "fraction_of_ceiling" in line:
                self.assertIn(line["ceiling"], ("gemm", "copy", "exponentials"))

    # --- no usable GPU ---

    def refused_on_gpu(self, problem, why, advice, ranks=1, environment=None, **settings):
        job = self.train_on_gpu(ranks, run=self.new_run(), code=USAGE, environment=environment, **settings)
        self.expect_one_error(job, problem, why, advice)
        return job

    def test_without_a_gpu(self):
        self.refused_on_gpu("no GPU was found", ".*NVIDIA GPU.*", ".*--backend cpu.*",
                            environment={"VITRAIL_EMULATED_DEVICES": "0"})

    def test_with_too_old_a_gpu(self):
        job = self.train_on_gpu(run=self.new_run(), code=USAGE, environment={"VITRAIL_EMULATED_CAPABILITY": "75"})
        self.assertEqual(len(job.errors), 1, job.said)
        self.assertIn("is too old: compute capability 7.5 (the kernels need compute capability 8.0", job.errors[0])

    def test_out_of_memory_shows_the_plan(self):
        job = self.train_on_gpu(run=self.new_run(), code=USAGE, width=256, mlp_width=4096,
                                environment={"VITRAIL_EMULATED_MEMORY_MIB": "100"})
        self.assertEqual(len(job.errors), 1, job.said)
        self.assertRegex(job.errors[0], "error: no memory for the [a-z]+: .*bytes of GPU memory were refused")
        for words in ("parameters", "gradients", "optimizer", "activations", "together"):
            self.assertRegex(job.said, rf"\n  {words} +\d+\.\d MiB")

    def test_more_ranks_than_gpus(self):
        self.refused_on_gpu("2 ranks have 1 GPU between them", ".*", ".*--communicator staged.*", ranks=2)

    def test_a_gpu_that_is_not_there(self):
        self.refused_on_gpu("--gpu 1", ".*1 GPU.*", ".*", gpu=1)

    def test_graphs_cannot_hold_staged_exchanges(self):
        self.refused_on_gpu("--graphs on with --communicator staged", ".*", ".*", communicator="staged", graphs="on")


if __name__ == "__main__":
    programs.main()

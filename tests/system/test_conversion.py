"""Checkpoints that went through other software's formats, and upcycled ones, in training and evaluation."""

import json
import unittest

import programs
from programs import CHECKPOINT, DONE, USAGE, Programs, options

NO_MPI = {"OMPI_MCA_pml": "nothing"}
STANDS_STILL = {"learning_rate": 0, "final_learning_rate": 0, "steps": 1}


class Conversion(Programs):
    """Folders "sparse" and "dense": two runs of square images, with 5 tokens."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.square = cls.folder / "square"
        cls.pack(cls.square / "train", programs.IMAGES, seed=4, height=8)
        cls.pack(cls.square / "test", 52, seed=5, height=8)
        cls.sparse, cls.dense = cls.folder / "sparse", cls.folder / "dense"

    def setUp(self):
        if not self.dense.exists():
            settings = {"data": self.square, "image_height": 8, "learning_rate": 0.02, "steps": 20}
            self.train(2, run=self.sparse, capacity_factor=0.7, average_decay=0.5, **settings)
            self.train(1, run=self.dense, moe="none", **settings)

    def tool(self, *words, code=DONE):
        return self.job(0, "vitrail-checkpoint", *words, code=code, environment=NO_MPI)

    def results(self, run, **settings):
        output = self.folder / "results.json"
        self.evaluate(0, run=run, data=self.square, output=output, **settings)
        results = json.loads(output.read_text())
        for of_this_run in ("checkpoint", "step"):
            del results[of_this_run]
        return results

    def test_a_model_evaluates_to_the_same_bits_after_every_format(self):
        for source, files in ((self.sparse, ["a.safetensors", "b.index"]), (self.dense, ["c.npz", "d.safetensors"])):
            expected = self.results(source)
            before = source
            for name in files:
                file, run = self.folder / name, self.new_run()
                self.tool("convert", before, file)
                # What shapes do not say stands in our own safetensors files alone.
                unsaid = ["--capacity-factor", "0.7"] if name == "b.index" else []
                self.tool("convert", file, run, *unsaid)
                self.assertEqual(self.results(run), expected, name)
                before = file

    def test_the_running_average_becomes_the_parameters(self):
        run = self.new_run()
        self.tool("convert", self.sparse, run, "--average")
        self.assertEqual(self.results(run), self.results(self.sparse, average=True))
        self.assertNotEqual(self.results(run), self.results(self.sparse))

    def test_training_begins_with_a_converted_model(self):
        file, converted, run = self.folder / "dense.npz", self.new_run(), self.new_run()
        self.tool("convert", self.dense, file)
        self.tool("convert", file, converted)
        settings = {"config": converted / "model.cfg", "init_from": converted, "data": self.square, "batch": 16}
        job = self.job(1, "vitrail-train", *options(run_dir=run, **settings, **STANDS_STILL))
        self.assertRegex(job.said, r"copied \d+ tensors")
        self.assertEqual(self.results(run), self.results(self.dense))

    def test_upcycling_is_what_training_from_the_dense_model_begins_with(self):
        upcycled, run = self.new_run(), self.new_run()
        sparse = {"moe": "0-1", "experts": 4, "normalize_gates": True, "seed": 3}
        job = self.tool("upcycle", self.dense, upcycled, *options(**sparse))
        self.assertIn("fresh: Encoder/encoderblock_0/Moe/Router/dense/kernel", job.said)
        self.train(2, run=run, data=self.square, image_height=8, init_from=self.dense, **sparse, **STANDS_STILL)
        self.assertEqual(self.results(upcycled), self.results(run))

    def test_commands_have_manuals(self):
        for command in ("convert", "upcycle"):
            self.assertIn(f"vitrail-checkpoint {command} ", self.tool("--help").said)
            said = self.tool(command, "--help").said
            self.assertIn("Exit codes: 0 ", said)
            self.assertLessEqual(max(map(len, said.splitlines())), 120)
            self.tool(command, code=USAGE)

    def test_what_cannot_be_converted_is_refused(self):
        job = self.tool("convert", self.sparse, self.folder / "no.npz", code=USAGE)
        self.expect_one_error(job, "the model has Encoder/encoderblock_1/Moe/", advice="Convert to .*")
        job = self.tool("convert", self.dense, self.sparse, code=USAGE)
        self.expect_one_error(job, "there is a .*sparse/checkpoints already", advice="Name another place, .*")
        (self.folder / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
        job = self.tool("convert", self.folder / "broken.npz", self.new_run(), code=CHECKPOINT)
        self.assertRegex(job.said, r"^vitrail-checkpoint: error: .*broken.npz")
        job = self.tool("upcycle", self.dense, self.new_run(), code=USAGE)
        self.expect_one_error(job, "no block is upcycled", advice="Say which blocks: .*")


if __name__ == "__main__":
    programs.main()

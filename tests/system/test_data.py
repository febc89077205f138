"""Missing, damaged and unsuitable data: exit code 3, one line, all ranks gone; a run that was saved goes on."""

import json
import shutil
import unittest

import programs
from programs import DATA, IMAGES, Programs, flip_bit


class Data(Programs):
    def setUp(self):
        self.copy = self.folder / f"copy-{self.id().rsplit('.', 1)[1]}"
        shutil.copytree(self.data, self.copy)
        self.shard = self.copy / "train" / "shard-00001.h5"
        self.manifest = self.copy / "train" / "manifest.json"

    def test_a_path_without_data_is_reported_once(self):
        run = self.new_run()
        self.refused(
            DATA,
            "there is no dataset in '.*/nowhere'",
            "neither manifest.json nor train/manifest.json is there",
            "Is the path right\\?.*",
            **{"ranks": 3, "expert_parallel": 1, "batch": 48, "run": run, "data": self.folder / "nowhere"},
        )
        self.assertFalse(run.exists())

    def test_a_missing_shard(self):
        self.shard.unlink()
        self.refused(DATA, "shard '.*shard-00001.h5' is missing", advice="Restore the file.*", ranks=2, data=self.copy)

    def test_a_truncated_shard(self):
        self.shard.write_bytes(self.shard.read_bytes()[:-100])
        problem, why = "shard '.*shard-00001.h5' has \\d+ bytes", "its manifest states \\d+: it is cut short.*"
        self.refused(DATA, problem, why, ranks=2, data=self.copy)

    def test_a_shard_that_is_no_hdf5_file(self):
        self.shard.write_bytes(bytes(self.shard.stat().st_size))
        self.refused(DATA, "shard-00001.h5", data=self.copy)

    def test_a_damaged_manifest(self):
        whole = self.manifest.read_text()
        self.manifest.write_text(whole[: len(whole) // 2])
        self.refused(DATA, "manifest.json", ranks=2, data=self.copy)
        for key in ("shards", "images", "image_shape", "format"):
            self.manifest.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != key}))
            self.refused(DATA, "manifest.json", data=self.copy)
        changed = json.loads(whole)
        changed["images"] = IMAGES + 1
        self.manifest.write_text(json.dumps(changed))
        problem = f"manifest.json states {IMAGES + 1} images"
        self.refused(DATA, problem, advice="Pack the dataset again.*", data=self.copy)
        changed["images"], changed["format"] = IMAGES, "vitrail-dataset-9"
        self.manifest.write_text(json.dumps(changed))
        self.refused(DATA, "has the format 'vitrail-dataset-9'", data=self.copy)

    def test_another_shape_or_number_of_classes(self):
        self.refused(DATA, "data/train has 5 classes", "the model has 10", "Set --classes 5", ranks=2, classes=10)
        self.refused(
            DATA, "data/train has images of 12x8x1", "the model takes 28x28x1", "Set --image-height.*",
            image_height=28, image_width=28,
        )
        self.pack(self.folder / "taller" / "train", 20, height=16)
        self.refused(DATA, "another image shape or number of classes", data=[self.data, self.folder / "taller"])

    def test_a_flipped_bit_met_in_mid_run_ends_all_ranks_and_the_run_can_go_on(self):
        # One image lies in the only chunk of the last shard; a step takes 16 of 1,601.
        self.pack(self.folder / "many" / "train", 1600, shards=1)
        lone = self.folder / "lone"
        self.pack(lone / "train", 1, shards=1)
        shard = lone / "train" / "shard-00000.h5"
        whole = shard.read_bytes()
        run = self.new_run()
        settings = {"data": [self.folder / "many", lone], "steps": None, "epochs": 1, "save_every": 1, "digest": True}
        self.train(2, run=run, **settings)
        undisturbed = self.summary(run)["digest"]

        # In the middle of the pixels: the last run of bytes with this brightness.
        pixels = max(range(len(whole) - 96), key=lambda at: sum(b > 0 for b in whole[at : at + 96]))
        flip_bit(shard, pixels + 48)
        run = self.new_run()
        job = self.train(2, run=run, code=DATA, **settings)
        self.expect_one_error(job, "lone/train/shard-00000.h5", rank="[01]")
        step = self.latest_step(run)
        self.assertGreater(step, 1)
        self.assertLess(step, 101)
        shard.write_bytes(whole)
        self.train(2, run=run, resume=True, **settings)
        self.assertEqual(self.summary(run)["digest"], undisturbed)
        self.assertEqual([line["step"] for line in self.metrics(run)], list(range(1, 102)))

    def test_evaluation_says_the_same(self):
        run = self.new_run()
        self.train(2, run=run)
        before = sorted(path.name for path in run.iterdir())
        shutil.rmtree(self.copy / "test")
        job = self.evaluate(2, run=run, code=DATA, data=self.copy / "test")
        self.expect_one_error(job, "there is no dataset in")
        self.pack(self.copy / "test", 20, classes=4)
        job = self.evaluate(2, run=run, code=DATA, data=self.copy)
        self.expect_one_error(job, "copy-.*/test has 4 classes", "the model has 5")
        self.assertEqual(sorted(path.name for path in run.iterdir()), before)


if __name__ == "__main__":
    programs.main()

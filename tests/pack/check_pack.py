#!/usr/bin/env python3
"""Runs vitrail-pack as its users do.

    check_pack.py PROGRAM

Packs small made-up IDX files, and real Fashion-MNIST if the Debian package dataset-fashion-mnist is installed, and
gives it every kind of bad input: each must end with one clear line and the documented exit code, and leave what was
there before as it was.
"""

import gzip
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

FASHION = Path("/usr/share/datasets/fashion-mnist")
USAGE = 2
DATA = 3


def idx(dimensions, values):
    return struct.pack(">BBBB", 0, 0, 8, len(dimensions)) + struct.pack(f">{len(dimensions)}I", *dimensions) + values


def content_of(folder):
    """Every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Pack(unittest.TestCase):
    program = None

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="vitrail-pack-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.images = self.folder / "images.gz"
        self.labels = self.folder / "labels.gz"
        pixels = bytes(i % 256 for i in range(100 * 5 * 4))
        self.images.write_bytes(gzip.compress(idx([100, 5, 4], pixels)))
        self.labels.write_bytes(gzip.compress(idx([100], bytes(i % 7 for i in range(100)))))
        self.split = self.folder / "small" / "train"

    def run_program(self, *words, code=0):
        done = subprocess.run([self.program, *map(str, words)], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        if code != 0:
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertTrue(done.stderr.startswith("vitrail-pack: error: "), done.stderr)
        else:
            self.assertEqual(done.stderr, "")
        return done.stdout + done.stderr

    def pack(self, *more, code=0, images=None, labels=None, classes=7, output=None):
        return self.run_program(
            *("--images", images or self.images, "--labels", labels or self.labels),
            *("--classes", classes, "--output", output or self.split, "--shards", 3, *more),
            code=code,
        )

    def manifest(self):
        return json.loads((self.split / "manifest.json").read_text())

    def test_packs_verifies_and_says_what_it_made(self):
        said = self.pack()
        self.assertIn("100 images of 5 x 4 x 1, 7 classes, into 3 shards", said)
        manifest = self.manifest()
        self.assertEqual(manifest["format"], "vitrail-dataset-1")
        self.assertEqual(manifest["name"], "small/train")
        self.assertEqual(manifest["image_shape"], [5, 4, 1])
        self.assertEqual([shard["images"] for shard in manifest["shards"]], [33, 33, 34])
        for shard in manifest["shards"]:
            content = (self.split / shard["file"]).read_bytes()
            self.assertEqual(len(content), shard["bytes"])
            self.assertEqual(hashlib.sha256(content).hexdigest(), shard["sha256"])
        self.assertIn("100 images, every checksum agrees", self.run_program("--verify", self.split))
        self.assertIn("100 images, every checksum agrees", self.run_program("--verify", self.split.parent))
        self.assertEqual([path.name for path in self.split.parent.iterdir()], ["train"])  # nothing left beside it

    def test_makes_the_same_bytes_again(self):
        self.pack()
        self.pack(output=self.folder / "again" / "train", images=self.images)
        first, again = content_of(self.split), content_of(self.folder / "again" / "train")
        self.assertEqual({k: v for k, v in first.items() if k.endswith(".h5")},
                         {k: v for k, v in again.items() if k.endswith(".h5")})

    def test_reads_plain_files_too(self):
        plain = self.folder / "images"
        plain.write_bytes(gzip.decompress(self.images.read_bytes()))
        self.pack(images=plain)
        self.run_program("--verify", self.split)

    def test_keeps_names(self):
        self.pack("--name", "letters", "--class-names", *"abcdefg")
        self.assertEqual(self.manifest()["name"], "letters")
        self.assertEqual(self.manifest()["class_names"], list("abcdefg"))
        self.assertIn("class names", self.pack("--force", "--class-names", "a", "b", code=USAGE))

    def test_replaces_only_when_told_to(self):
        self.pack()
        before = content_of(self.split)
        self.assertIn("--force", self.pack(code=USAGE))
        self.assertEqual(content_of(self.split), before)
        self.pack("--force", "--name", "other", output=str(self.split) + "/")
        self.assertEqual(self.manifest()["name"], "other")
        self.assertEqual([path.name for path in self.split.parent.iterdir()], ["train"])

    def test_never_replaces_what_is_not_a_dataset(self):
        self.split.mkdir(parents=True)
        (self.split / "thesis.txt").write_text("years of work")
        self.assertIn("not a dataset", self.pack("--force", code=USAGE))
        self.assertEqual((self.split / "thesis.txt").read_text(), "years of work")

    def test_a_failed_run_leaves_the_old_dataset(self):
        self.pack()
        before = content_of(self.split)
        self.pack("--force", classes=6, code=DATA)
        self.assertEqual(content_of(self.split), before)
        self.assertEqual([path.name for path in self.split.parent.iterdir()], ["train"])

    def test_a_full_disk_leaves_the_old_dataset(self):
        self.pack()
        before = content_of(self.split)
        command = 'ulimit -f 4; trap "" XFSZ; exec "$@"'  # files of at most 4 KiB: write() fails as on a full disk
        words = [self.program, "--images", self.images, "--labels", self.labels, "--classes", "7"]
        words += ["--output", self.split, "--shards", "1", "--force"]
        done = subprocess.run(["bash", "-c", command, "bash", *map(str, words)], capture_output=True, text=True)
        self.assertEqual(done.returncode, DATA, done.stderr)
        self.assertIn("File too large", done.stderr)
        self.assertEqual(content_of(self.split), before)
        self.assertEqual([path.name for path in self.split.parent.iterdir()], ["train"])

    def test_names_the_nearest_option(self):
        self.assertIn("Did you mean 'shards'", self.pack("--shard", 3, code=USAGE))
        self.assertIn("--labels is missing", self.run_program("--images", self.images, code=USAGE))
        self.assertIn("whole number", self.pack(classes="ten", code=USAGE))
        self.assertIn("not both", self.run_program("--verify", self.split, "--output", self.split, code=USAGE))

    def test_refuses_bad_input(self):
        self.assertIn("label 6", self.pack(classes=6, code=DATA))
        self.assertIn("256 classes", self.pack(classes=257, code=USAGE))
        self.assertIn("swapped", self.pack(images=self.labels, labels=self.images, code=DATA))
        self.assertIn("No such file", self.pack(images=self.folder / "missing.gz", code=DATA))
        self.assertIn("101 shards", self.pack("--shards", 101, code=USAGE))
        few = self.folder / "few.gz"
        few.write_bytes(gzip.compress(idx([99], bytes(99))))
        self.assertIn("99 labels", self.pack(labels=few, code=DATA))
        self.assertFalse(self.split.exists())

    def pack_rows(self, rows, **settings):
        """Packs images with labels given as rows of bytes, one a class."""
        several = self.folder / "several.gz"
        several.write_bytes(gzip.compress(idx([len(rows), len(rows[0])], b"".join(rows))))
        return self.pack(labels=several, **settings)

    def test_packs_several_labels_per_image(self):
        rows = [bytes((image + label) % 7 < 3 and image % 10 > 0 for label in range(7)) for image in range(100)]
        said = self.pack_rows(rows)
        self.assertIn("7 classes, up to 3 labels each, into 3 shards", said)
        self.assertEqual(self.manifest()["labels_per_image"], 3)
        self.assertIn("100 images, every checksum agrees", self.run_program("--verify", self.split))
        # One class each is what it is as plain numbers.
        one_each = [bytes(label == image % 7 for label in range(7)) for image in range(100)]
        self.pack_rows(one_each, output=self.folder / "x")
        self.pack(output=self.folder / "y")
        shards = [{k: v for k, v in content_of(self.folder / k).items() if k.endswith("h5")} for k in "xy"]
        self.assertEqual(*shards)
        # More classes than a byte counts.
        wide = [bytes(label == 3 * image for label in range(300)) for image in range(100)]
        self.pack_rows(wide, classes=300, output=self.folder / "wide")
        self.run_program("--verify", self.folder / "wide")

    def test_refuses_rows_of_labels_that_do_not_fit(self):
        self.assertIn("Use --classes 8", self.pack_rows([bytes(8)] * 100, code=USAGE))
        said = self.pack_rows([bytes(7)] * 99 + [bytes(6) + b"\2"], code=DATA)
        self.assertIn("the value 2 for image 99 and class 6", said)
        self.assertIn("99 labels", self.pack_rows([bytes(7)] * 99, code=DATA))
        self.assertFalse(self.split.exists())

    def test_refuses_damaged_gzip(self):
        good = self.images.read_bytes()
        for damaged in (good[: len(good) // 2], good[:-4], good[:-8] + bytes(8), b"", good[:4]):
            self.images.write_bytes(damaged)
            self.assertIn("images.gz", self.pack(code=DATA))
        self.assertFalse(self.split.exists())

    def test_verify_finds_every_damage(self):
        self.pack()
        shard = self.split / "shard-00001.h5"
        good = shard.read_bytes()
        self.assertIn("no dataset", self.run_program("--verify", self.folder / "nothing", code=DATA))
        shard.write_bytes(good[:-1])
        self.assertIn("shard-00001.h5' has", self.run_program("--verify", self.split, code=DATA))
        for place in range(0, len(good), 97):
            shard.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            self.assertIn("shard-00001.h5", self.run_program("--verify", self.split, code=DATA))
        shard.unlink()
        self.assertIn("missing", self.run_program("--verify", self.split, code=DATA))
        shard.write_bytes(good)
        self.run_program("--verify", self.split)
        manifest = self.manifest()
        manifest["classes"] = 3
        (self.split / "manifest.json").write_text(json.dumps(manifest))
        self.assertIn("the label 3", self.run_program("--verify", self.split, code=DATA))

    def test_help_and_version(self):
        said = self.run_program("--help")
        for part in ("--images FILE", "--verify DIR", "--force", "fashion-mnist/train", "(default 8)"):
            self.assertIn(part, said)
        self.assertRegex(self.run_program("--version"), r"^vitrail-pack \(Vitrail\) \d+\.\d+\.\d+\n$")

    @unittest.skipUnless(FASHION.is_dir(), "the Debian package dataset-fashion-mnist is not installed")
    def test_packs_fashion_mnist(self):
        for files, split, images in (("train", "train", 60000), ("t10k", "test", 10000)):
            self.pack(
                images=FASHION / f"{files}-images-idx3-ubyte.gz",
                labels=FASHION / f"{files}-labels-idx1-ubyte.gz",
                output=self.folder / "fashion-mnist" / split,
                classes=10,
            )
            manifest = json.loads((self.folder / "fashion-mnist" / split / "manifest.json").read_text())
            self.assertEqual(manifest["images"], images)
            self.assertEqual(manifest["image_shape"], [28, 28, 1])
        said = self.run_program("--verify", self.folder / "fashion-mnist")
        self.assertIn("60000 images, every checksum agrees", said)
        self.assertIn("10000 images, every checksum agrees", said)


if __name__ == "__main__":
    Pack.program = os.path.abspath(sys.argv.pop(1))
    unittest.main()

"""What the tests of whole programs share: a small dataset, a tiny model, and runs that are watched to their end.

    test_x.py PROGRAMS LAUNCHER...   where the programs lie, and mpirun with its options, '{ranks}' for their number
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

DONE, OTHER, USAGE, DATA, CHECKPOINT, NUMBERS, HANG = range(7)
REQUEUE = 85
SECONDS_TO_END = 10.0  # from the end of mpirun to the end of the last rank
SECONDS_IN_ALL = 120.0  # of one job; the machine may be busy, a hang lasts for ever

HEIGHT, WIDTH, CLASSES, IMAGES = 12, 8, 5, 160
# 7 tokens an image, 8 experts in one of two blocks, two leaves a step.
MODEL = {
    "image-height": HEIGHT,
    "image-width": WIDTH,
    "classes": CLASSES,
    "width": 16,
    "mlp-width": 32,
    "heads": 2,
    "batch": 16,
    "leaf-images": 8,
    "steps": 6,
}

programs = Path()
launcher: list[str] = []


def main():
    """Takes the places of things off the command line, then runs the tests."""
    global programs
    programs = Path(sys.argv[1]).resolve()
    words = sys.argv[2:]
    launcher.extend(words[: words.index("--")] if "--" in words else words)
    tests = words[words.index("--") + 1 :] if "--" in words else []
    unittest.main(argv=sys.argv[:1] + tests)


def idx(dimensions, values):
    return struct.pack(">BBBB", 0, 0, 8, len(dimensions)) + struct.pack(f">{len(dimensions)}I", *dimensions) + values


def options(**settings):
    """{"leaf_images": 4, "resume": True} as words of a command line; None leaves an option out."""
    words = []
    for name, value in settings.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words


def processes_naming(text):
    """Processes with `text` on their command line, this one aside: {pid: name}."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if text in (entry / "cmdline").read_text(errors="replace"):
                found[int(entry.name)] = (entry / "comm").read_text().strip()
        except OSError:
            continue  # it ended while we looked
    return found


class Job:
    """A finished run of a program."""

    def __init__(self, code, said):
        self.code = code
        self.said = said
        lines = [line for line in said.splitlines() if "vitrail-" in line and "error: " in line]
        self.errors = [line[line.index("vitrail-") :] for line in lines]


class Programs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="vitrail-system-"))
        # Jobs of tests that run at the same time would make and remove one folder of Open MPI's, and sometimes miss it.
        os.environ["OMPI_MCA_orte_tmpdir_base"] = str(cls.folder)
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.data = cls.folder / "data"
        cls.pack(cls.data / "train", IMAGES, seed=1)
        cls.pack(cls.data / "test", 52, seed=2)  # the last batch is not full
        cls.runs = 0

    @classmethod
    def pack(cls, output, images, seed=1, height=HEIGHT, width=WIDTH, classes=CLASSES, shards=3):
        """Images whose brightness says their class, with noise."""
        draw = random.Random(seed)
        labels = bytes(draw.randrange(classes) for _ in range(images))
        pixels = bytes(
            min(255, 40 * label + draw.randrange(90)) for label in labels for _ in range(height * width)
        )
        cls.pack_bytes(output, idx([images, height, width], pixels), idx([images], labels), classes, shards)

    @classmethod
    def pack_several_labels(cls, output, images, seed=1):
        """Images of bright stripes under noise, up to all of them: each says a class, and some images have none."""
        draw = random.Random(seed)
        rows = [[draw.random() < 0.4 for _ in range(CLASSES)] for _ in range(images)]
        pixels = bytes(
            (130 if line // 2 < CLASSES and row[line // 2] else 0) + draw.randrange(120)
            for row in rows
            for line in range(HEIGHT)
            for _ in range(WIDTH)
        )
        labels = idx([images, CLASSES], bytes(label for row in rows for label in row))
        cls.pack_bytes(output, idx([images, HEIGHT, WIDTH], pixels), labels, CLASSES, 3)

    @classmethod
    def pack_bytes(cls, output, images, labels, classes, shards):
        """Packs two IDX files."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "images").write_bytes(images)
            (Path(folder) / "labels").write_bytes(labels)
            subprocess.run(
                [programs / "vitrail-pack", "--images", f"{folder}/images", "--labels", f"{folder}/labels"]
                + ["--classes", str(classes), "--output", output, "--shards", str(shards)],
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=60,
            )

    def new_run(self):
        type(self).runs += 1
        return self.folder / f"run-{self.runs}"

    def command(self, ranks, program, words):
        head = [part.format(ranks=ranks) for part in launcher] if ranks else []
        return [*head, str(programs / program), *map(str, words)]

    def job(self, ranks, program, *words, code=DONE, environment=None, wrapper=()):
        """Runs a program on so many ranks (0: without mpirun) to its end, and sees that no process is left."""
        command = self.command(ranks, program, words)
        if wrapper:
            place = command.index(str(programs / program))
            command[place:place] = wrapper
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS_IN_ALL,
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        self.expect_all_gone(done.stdout)
        self.assertEqual(done.returncode, code, done.stdout)
        return Job(done.returncode, done.stdout)

    def expect_all_gone(self, said):
        """No process names our folder within seconds."""
        end = time.monotonic() + SECONDS_TO_END
        while left := processes_naming(str(self.folder)):
            self.assertLess(time.monotonic(), end, f"still there: {left}\n{said}")
            time.sleep(0.05)

    def train(self, ranks=1, *, run, code=DONE, environment=None, wrapper=(), **settings):
        """vitrail-train with the tiny model."""
        merged = {name.replace("-", "_"): value for name, value in MODEL.items()}
        merged.update({"data": self.data, "run_dir": run, "expert_parallel": ranks if ranks else 1}, **settings)
        return self.job(
            ranks, "vitrail-train", *options(**merged), code=code, environment=environment, wrapper=wrapper
        )

    def evaluate(self, ranks=1, *, run, code=DONE, **settings):
        merged = {"run_dir": run, "data": self.data, **settings}
        return self.job(ranks, "vitrail-eval", *options(**merged), code=code)

    def expect_one_error(self, job, problem, why=".+", advice=".*", rank=None):
        """One line: what (why). What to try. Of rank 0 unless `rank` matches another; usage errors name no rank."""
        self.assertEqual(len(job.errors), 1, job.said)
        who = "" if job.code == USAGE else rf"rank {0 if rank is None else rank}/\d+ on \S+: "
        self.assertRegex(job.errors[0], rf"^vitrail-[a-z]+: {who}error: [^(]*{problem}.* \({why}\)\.? ?{advice}$")

    def refused(self, expected_code, problem, why=".+", advice=".*", ranks=1, rank=None, **settings):
        """vitrail-train refuses these settings."""
        run = settings.pop("run", None) or self.new_run()
        job = self.train(ranks, run=run, code=expected_code, **settings)
        self.expect_one_error(job, problem, why, advice, rank)
        return job

    @staticmethod
    def summary(run):
        return json.loads((run / "summary.json").read_text())

    @staticmethod
    def metrics(run):
        """metrics.jsonl without what may differ between equal runs."""
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            del line["time"]
        return lines

    @staticmethod
    def latest_step(run):
        return int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))


def content_of(folder):
    """Every file below a folder: {name: bytes}."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def piece_of(step_dir, kind, file):
    """A tensor of this kind that lies in this file of a checkpoint: its name, the file, and its place there."""
    manifest = json.loads((step_dir / "manifest.json").read_text())
    for name, tensor in manifest["tensors"].items():
        for index, _, _, offset, _ in tensor["pieces"]:
            if index == file and name.startswith(kind + "/"):
                return name, step_dir / manifest["files"][index][0], offset
    raise AssertionError(f"no {kind} in file {file}")


def flip_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)

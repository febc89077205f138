"""tests/run_on_gpu.sh where there is no GPU, and with stand-ins for a GPU and for the programs."""

import json
import os
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "tests/run_on_gpu.sh"
PARTS = "gpu-tests golden-f32 golden-bf16 step-s32 step-b16 step-l16 step-15b torch torch-compiled gemm layouts nccl memcheck racecheck".split()
A_GPU = 'echo "GPU 0: Imaginary H200 (UUID: GPU-1)"'
BENCH = 'echo "{\\"bench\\":\\"train_step\\",\\"impl\\":\\"vitrail\\"}"'


class RunOnGpu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.report = self.folder / "report"
        self.calls = self.folder / "calls"
        self.calls.touch()
        self.program("path/compute-sanitizer")
        self.program("path/mpirun", 'while [ "${1#/}" = "$1" ] && [ "$1" != true ]; do shift; done\nexec "$@"')
        self.program("path/python3", "exit 1")  # no PyTorch
        (self.folder / "build/golden").mkdir(parents=True)
        (self.folder / "build/golden/model_a.h5").touch()
        for name in ("train", "eval", "selftest", "bench"):
            self.program(f"build/bin/vitrail-{name}", BENCH if name == "bench" else "")
        self.program("build/bin/test_cuda")

    def program(self, name, body=""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/bash\necho "{path.name} $*" >>"{self.calls}"\n{body}\n')
        path.chmod(0o755)

    def run_script(self, *words, gpu=A_GPU, code=0, **environment):
        self.program("path/nvidia-smi", gpu)
        done = subprocess.run(
            [SCRIPT, self.report, *words],
            env={**os.environ, "PATH": f"{self.folder}/path:{os.environ['PATH']}", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        self.assertEqual(done.returncode, code, done.stdout)
        lines = (self.report / "table.txt").read_text().splitlines()[1:]
        return done.stdout, {line.split()[0]: line.split(None, 3)[1:] for line in lines}

    def test_without_a_gpu_every_part_is_skipped_and_the_exit_code_is_2(self):
        for gpu in ("exit 9", "echo No devices were found"):
            said, table = self.run_script("--build", self.folder / "build", gpu=gpu, code=2)
            self.assertIn("missing: a GPU", said)
            self.assertEqual(list(table), PARTS)
            self.assertEqual({tuple(row) for row in table.values()}, {("skipped", "-", "no GPU")})
        self.assertNotIn("vitrail-selftest", self.calls.read_text())

    def test_every_part_has_its_verdict_and_its_json(self):
        said, table = self.run_script("--build", self.folder / "build")
        self.assertEqual(sorted(table), sorted(PARTS))
        passed = {name for name, row in table.items() if row[0] == "passed"}
        self.assertEqual(passed, set(PARTS) - {"torch", "torch-compiled", "nccl"})
        self.assertEqual(table["torch"][2], "no PyTorch that sees the GPU")
        self.assertIn("missing: MPI", said)  # there is an mpirun, but the programs do not know it
        self.assertEqual(table["nccl"][2], "no MPI")
        records = [json.loads(line) for line in (self.report / "results.jsonl").read_text().splitlines()]
        speeds = [one["part"] for one in records if one.get("bench") == "train_step"]
        self.assertEqual(speeds, ["step-b16", "step-s32", "step-l16", "step-15b", "gemm"])
        verdicts = {one["part"]: one["exit_code"] for one in records if "verdict" in one}
        self.assertEqual(set(verdicts), passed)
        with tarfile.open(self.report / "parts.tar.gz") as parts:
            self.assertIn("./golden-f32.txt", parts.getnames())
        self.assertLessEqual(len(list(self.report.iterdir())), 4)
        calls = self.calls.read_text()
        self.assertIn("--backend cuda --precision bf16", calls)
        self.assertIn("layouts --backend cuda --steps 10 --recipes none --most-ranks 1", calls)

    def test_a_part_that_fails_stops_no_other(self):
        self.program("build/bin/vitrail-selftest", '[ "$1" != golden ] || exit 5')
        _, table = self.run_script("--build", self.folder / "build", code=1)
        self.assertEqual((table["golden-f32"][0], table["golden-f32"][2]), ("failed", "exit code 5"))
        self.assertEqual(table["layouts"][0], "passed")
        self.assertEqual(table["racecheck"][0], "passed")

    def test_a_part_that_hangs_is_ended_in_time(self):
        self.program("build/bin/test_cuda", "sleep 1000")
        said, table = self.run_script(
            "--build", self.folder / "build", "--only", "gpu-tests", code=1, VITRAIL_GPU_SECONDS="25"
        )
        self.assertEqual(list(table), ["gpu-tests"])
        self.assertRegex(table["gpu-tests"][2], r"not done after \d+ s")

    def test_a_carried_archive_is_unpacked(self):
        os.rename(self.folder / "build", self.folder / "vitrail-gpu")
        carried = self.folder / "carried"
        carried.mkdir()
        with tarfile.open(carried / "vitrail-gpu.tar.xz", "w:xz") as archive:
            archive.add(self.folder / "vitrail-gpu", "vitrail-gpu")
        _, table = self.run_script("--build", carried, "--only", "golden-f32", "gpu-tests")
        self.assertEqual({row[0] for row in table.values()}, {"passed"})

    def test_a_folder_without_programs_is_no_build(self):
        _, table = self.run_script("--build", self.folder / "path", code=2)
        self.assertRegex(table["golden-f32"][2], "no programs in ")

    def test_help_is_the_head_of_the_script(self):
        said = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, timeout=10, check=True).stdout
        self.assertIn("Exit codes: 0 all parts passed", said)
        self.assertNotIn("pipefail", said)


if __name__ == "__main__":
    unittest.main()

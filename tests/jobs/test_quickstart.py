"""jobs/quickstart.sh with stand-ins for cmake, mpirun and the programs: its stages, skips and refusals.

The real thing (build, training, accuracy) is run by hand and by the tests of the programs.
"""

import os
import pty
import shutil
import subprocess
import unittest
from pathlib import Path

from scratch import Scratch

SCRIPT = "jobs/quickstart.sh"
# The value behind an option: option_value --output "$@"
OPTION_VALUE = 'option_value() { local name=$1; shift; while [ "$1" != "$name" ]; do shift; done; echo "$2"; }\n'
TRAIN = """run=$(option_value --run-dir "$@")
mkdir -p "$run"
printf '{\\n  "images_per_s": 1234.5,\\n  "drop_rate": 1.5e-02\\n}\\n' >"$run/summary.json"
printf 'step 1\\rstep 2\\n'
"""
PACK = 'split=$(option_value --output "$@"); mkdir -p "$split"; touch "$split/manifest.json"'
EVAL = """echo capacity table
printf '{\\n  "test_accuracy": 0.8812\\n}\\n' >"$(option_value --run-dir "$@")/evaluation.json"
"""


@unittest.skipUnless(Path("/usr/share/datasets/fashion-mnist").is_dir(), "needs the package dataset-fashion-mnist")
class Quickstart(Scratch):
    def setUp(self):
        super().setUp()
        self.stand_in("nproc", "echo 2")
        self.stand_in("ninja")
        self.stand_in("cmake", "touch build/release/CMakeCache.txt")
        self.stand_in("mpirun", 'while [ "${1#*vitrail}" = "$1" ]; do shift; done\nexec "$@"')
        self.program("pack", PACK)
        self.program("train", TRAIN)
        self.program("eval", EVAL)

    def program(self, name, body=""):
        self.stand_in(f"vitrail-{name}", OPTION_VALUE + body, self.root / "build/release")

    def quickstart(self, *arguments, **environment):
        return self.call(SCRIPT, "--no-install", *arguments, **environment)

    def test_goes_from_configuring_to_the_closing_table(self):
        done = self.quickstart()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(len(self.calls("cmake")), 2)
        self.assertEqual(len(self.calls("vitrail-pack")), 2)
        self.assertIn("-np 2", self.calls("mpirun")[0])
        self.assertIn("--expert-parallel 2", self.calls("vitrail-train")[0])
        self.assertIn("--progress log", self.calls("vitrail-train")[0])  # stdout is no terminal here
        self.assertIn("capacity table", done.stdout)
        self.assertRegex(done.stdout, r"test accuracy +88\.12 %\n")
        self.assertRegex(done.stdout, r"images/s +123[45]\n")
        self.assertRegex(done.stdout, r"choices dropped +1\.50 %\n")
        self.assertRegex(done.stdout, r"training time +-\n")
        self.assertEqual((self.root / "runs/quickstart/train.log").read_text(), "step 1\nstep 2\n")

    def test_a_second_run_makes_nothing_again_and_shows_the_same_table(self):
        first = self.quickstart().stdout
        self.forget_calls()
        done = self.quickstart()
        self.assertEqual(done.returncode, 0, done.stdout)
        for program in ("pack", "train", "eval"):
            self.assertEqual(self.calls(f"vitrail-{program}"), [], program)
        self.assertEqual(len(self.calls("cmake")), 1)
        for said in ("data/fashion-mnist/train is there", "is trained", "is evaluated"):
            self.assertIn(said, done.stdout)
        self.assertEqual(first[first.index("capacity table") :], done.stdout[done.stdout.index("capacity table") :])

    def test_progress_is_redrawn_where_the_job_has_a_terminal(self):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        with os.fdopen(theirs, "wb") as terminal:
            environment = {"PATH": str(self.bin), "HOME": str(self.root)}
            command = [SCRIPT, "--no-install"]
            subprocess.run(command, cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=terminal,
                           stderr=subprocess.STDOUT, timeout=60, check=True)
        self.assertIn("--progress terminal", self.calls("vitrail-train")[0])

    def test_an_interrupted_training_is_resumed(self):
        (self.root / "runs/quickstart/checkpoints").mkdir(parents=True)
        (self.root / "runs/quickstart/checkpoints/latest").touch()
        done = self.quickstart()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue(self.calls("vitrail-train")[0].endswith("--resume"))
        self.assertIn("going on from the last checkpoint", done.stdout)

    def precision_of_training(self):
        words = self.calls("vitrail-train")[0].split()
        return words[words.index("--precision") + 1]

    def test_products_are_in_what_the_processor_multiplies_or_as_asked(self):
        flags = set(Path("/proc/cpuinfo").read_text().split())
        best = "bf16" if flags & {"avx512_bf16", "amx_bf16"} else "f32"
        for asked, expected in (([], best), (["--precision", "f32"], "f32"), (["--precision", "bf16"], "bf16")):
            done = self.quickstart(*asked)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertEqual(self.precision_of_training(), expected)
            self.assertIn(f"products in {expected}", done.stdout)
            self.forget_calls()
            shutil.rmtree(self.root / "runs/quickstart")
        for wrong in (["--precision"], ["--precision", "f16"]):
            self.assertEqual(self.quickstart(*wrong).returncode, 2)

    def test_a_run_that_goes_on_keeps_its_precision(self):
        run = self.root / "runs/quickstart"
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints/latest").touch()
        self.assertEqual(self.quickstart("--precision", "bf16").returncode, 0)
        self.assertEqual(self.precision_of_training(), "f32")  # a run from before there was a choice
        for precision in ("f32", "bf16"):
            (run / "jobs").mkdir(exist_ok=True)
            (run / "jobs/0001.json").write_text(f'{{\n  "settings": {{\n    "precision": "{precision}",\n  }}\n}}\n')
            (run / "summary.json").unlink()
            self.forget_calls()
            self.assertEqual(self.quickstart().returncode, 0)
            self.assertEqual(self.precision_of_training(), precision)

    def test_an_interrupted_packing_is_not_taken_for_data(self):
        self.program("pack", 'mkdir -p "$(option_value --output "$@")"; exit 3')
        self.assertEqual(self.quickstart().returncode, 3)
        self.assertEqual(self.calls("vitrail-train"), [])
        self.program("pack", PACK)
        self.forget_calls()
        done = self.quickstart()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(len(self.calls("vitrail-pack")), 2)

    def test_the_code_of_a_failing_program_is_its_own(self):
        self.program("train", "exit 5")
        self.assertEqual(self.quickstart().returncode, 5)
        self.assertEqual(self.calls("vitrail-eval"), [])

    def test_says_how_to_go_on_when_training_stopped_in_time(self):
        self.program("train", "exit 85")
        done = self.quickstart()
        self.assertEqual(done.returncode, 85)
        self.assertIn("run jobs/quickstart.sh again", done.stdout)

    def test_a_failing_evaluation_is_made_again(self):
        self.program("eval", "echo half a table; exit 4")
        self.assertEqual(self.quickstart().returncode, 4)
        self.program("eval", EVAL)
        done = self.quickstart()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("capacity table", done.stdout)
        self.assertNotIn("half a table", done.stdout)

    def test_a_failing_build_ends_it(self):
        self.stand_in("cmake", "exit 1")
        self.assertEqual(self.quickstart().returncode, 1)
        self.assertEqual(self.calls("vitrail-pack"), [])

    def test_refuses_without_mpirun_before_it_builds(self):
        (self.bin / "mpirun").unlink()
        done = self.quickstart()
        self.assertEqual(done.returncode, 2)
        self.assertIn("mpirun is missing", done.stdout)
        self.assertIn("jobs/install_dependencies.sh", done.stdout)
        self.assertEqual(self.calls("cmake"), [])

    def test_root_may_launch_ranks(self):
        self.program("train", '[ "$OMPI_ALLOW_RUN_AS_ROOT$OMPI_ALLOW_RUN_AS_ROOT_CONFIRM" = 11 ] || exit 9\n' + TRAIN)
        done = self.quickstart()
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_warns_on_a_single_core_and_lets_idle_ranks_yield(self):
        self.stand_in("nproc", "echo 1")
        self.program("train", '[ "$OMPI_MCA_mpi_yield_when_idle" = 1 ] || exit 9\n' + TRAIN)
        done = self.quickstart()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("take turns", done.stdout)

    def test_installs_first_unless_told_not_to(self):
        installer = self.root / "jobs/install_dependencies.sh"
        self.stand_in(installer.name, "exit 1", installer.parent)
        self.assertEqual(self.call(SCRIPT).returncode, 1)
        self.assertEqual(self.calls(installer.name), ["quickstart"])
        self.assertEqual(self.calls("cmake"), [])
        self.assertEqual(self.quickstart().returncode, 0)

    def test_an_unknown_option_is_refused(self):
        self.assertEqual(self.quickstart("--fast").returncode, 2)


if __name__ == "__main__":
    unittest.main()

"""Every kind of fault that check_readme.py promises to see, on small repositories made for it."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import check_readme  # noqa: E402

README = """# A project

```bash entry
jobs/quickstart.sh
tests/run.sh
```

## Programs

| program | what it does |
|---|---|
| `vitrail-train` | trains, see [the plan](src/plan.md) and [elsewhere](https://example.org/x) |

```bash run
build/release/vitrail-train --steps 3 > log
```

```bash site
srun --mpi=pmix build/release/vitrail-train \\
  --steps=5 | tee --append log
```

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 2 | usage |
"""

ERROR_HPP = "enum class ExitCode : int {\n  done = 0,\n  usage = 2,  ///< = 7\n};\n"

PROGRAM = """#!/bin/bash
case " $* " in
  *" bench --help "*) echo "  --repeat arg" ;;
  *" --help "*) echo "  --steps arg   how many; -h [ --help ]" ;;
  *) touch trained ;;
esac
"""


class Readme(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name) / "repository"
        self.programs = Path(folder.name) / "programs"
        self.write("src/base/error.hpp", ERROR_HPP)
        self.write("src/plan.md", "")
        self.write("apps/vitrail-train.cpp", "")
        for script in ("jobs/quickstart.sh", "tests/run.sh"):
            self.write(script, "#!/bin/bash\n").chmod(0o755)
        self.programs.mkdir()
        program = self.programs / "vitrail-train"
        program.write_text(PROGRAM, encoding="utf-8")
        program.chmod(0o755)
        subprocess.run(["git", "init", "--quiet"], cwd=self.root, check=True)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def facts(self, old="", new="", readme=README):
        self.assertIn(old, readme)
        return check_readme.facts(readme.replace(old, new, 1), self.root)

    def site(self, old="", new=""):
        self.assertIn(old, README)
        return check_readme.site(README.replace(old, new, 1), self.root, self.programs)

    def run_blocks(self, old="", new="", seconds=20):
        self.assertIn(old, README)
        return check_readme.run(README.replace(old, new, 1), self.root, self.programs, seconds)

    def assert_one(self, faults, part):
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(part, faults[0])

    def test_a_true_readme_has_no_fault(self):
        self.assertEqual(self.facts(), [])
        self.assertEqual(self.site(), [])
        self.assertEqual(self.run_blocks(), [])

    def test_a_block_without_a_class_is_a_fault(self):
        self.assert_one(self.facts("```bash run", "```bash"), "README.md:14: a block of class ''")

    def test_a_block_of_an_unknown_class_is_a_fault(self):
        self.assert_one(self.facts("```bash run", "```bash perhaps"), "perhaps")

    def test_a_block_in_another_language_is_a_fault(self):
        self.assert_one(self.facts("```bash run", "```python run"), "not bash")

    def test_an_open_block_is_a_fault(self):
        self.assert_one(self.facts(readme=README + "\n```bash site\ntrue\n"), "never closed")

    def test_the_entry_holds_exactly_two_commands(self):
        self.assert_one(self.facts("tests/run.sh\n", ""), "exactly")
        self.assert_one(self.facts("tests/run.sh\n", "tests/run.sh\nmake\n"), "exactly")
        self.assert_one(self.facts("jobs/quickstart.sh\n", "jobs/quickstart.sh --fast\n"), "exactly")

    def test_the_entry_comes_first(self):
        self.assert_one(self.facts(readme="```bash site\ntrue\n```\n" + README), "before all others")

    def test_an_entry_command_must_be_executable(self):
        (self.root / "tests/run.sh").chmod(0o644)
        self.assert_one(self.facts(), "tests/run.sh is no executable")

    def test_every_program_has_its_line(self):
        self.write("data_tools/vitrail-pack.cpp", "")
        self.assert_one(self.facts(), "vitrail-pack has no line")

    def test_no_program_is_named_that_does_not_exist(self):
        self.assert_one(self.facts("trains,", "trains as vitrail-learn does,"), "vitrail-learn is named")

    def test_the_exit_codes_are_those_of_the_source(self):
        self.assert_one(self.facts("| 2 | usage |\n", ""), "exit codes")
        self.assert_one(self.facts("| 2 | usage |\n", "| 3 | usage |\n"), "exit codes")

    def test_a_dead_link_is_a_fault(self):
        self.assert_one(self.facts("src/plan.md", "src/plans.md"), "src/plans.md")

    def test_shell_syntax_is_checked(self):
        self.assert_one(self.site("srun", "if srun"), "README.md:18")

    def test_an_option_that_help_does_not_name_is_a_fault(self):
        self.assert_one(self.site("--steps=5", "--step=5"), "vitrail-train has no option --step")

    def test_options_before_and_behind_a_program_are_not_its_own(self):
        self.assertEqual(self.site("--mpi=pmix", "--wait=60 --kill-on-bad-exit=1"), [])
        self.assertEqual(self.site("| tee --append log", "&& tee --append log"), [])

    def test_a_subcommand_has_options_of_its_own(self):
        self.assertEqual(self.site("--steps=5", "bench --repeat 3"), [])
        self.assert_one(self.site("--steps=5", "bench --steps 3"), "no option --steps")

    def test_a_quotation_over_several_lines_hides_no_option(self):
        self.assert_one(self.site("--steps=5", "--stop=5 --steps 'a\nb'"), "no option --stop")

    def test_a_program_without_help_is_a_fault(self):
        (self.programs / "vitrail-train").write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
        faults = self.site()
        self.assertEqual(len(faults), 2, faults)
        self.assertIn("--help fails", faults[0])

    def test_a_failing_command_in_a_run_block_is_a_fault(self):
        faults = self.run_blocks("--steps 3 > log", "--steps 3\nfalse\ntrue")
        self.assert_one(faults, "README.md:14: the block ends with 1")

    def test_a_hanging_run_block_is_a_fault(self):
        self.assert_one(self.run_blocks("build/release/vitrail-train", "sleep 30; :", seconds=1), "no end within 1 s")

    def test_run_blocks_see_the_repository_and_leave_it_alone(self):
        self.assertEqual(self.run_blocks("--steps 3 > log", "--steps 3; test -f trained; test -x tests/run.sh"), [])
        self.assertFalse((self.root / "trained").exists())
        self.assertFalse((self.root / "build").exists())

    def test_site_blocks_are_not_run(self):
        self.assertEqual(self.run_blocks("srun", "touch should_not_exist; exit 1; srun"), [])


if __name__ == "__main__":
    unittest.main()

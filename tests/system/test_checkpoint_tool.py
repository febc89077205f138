"""vitrail-checkpoint on the checkpoints of real runs, whole and damaged. One process, never MPI."""

import json
import math
import shutil
import struct
import unittest
from pathlib import Path

import programs
from programs import CHECKPOINT, DONE, NUMBERS, USAGE, Programs, content_of, flip_bit

# Not even an MPI that works: with this setting MPI_Init fails.
NO_MPI = {"OMPI_MCA_pml": "nothing"}
FULL_DISK = ["bash", "-c", 'trap "" XFSZ; ulimit -f 16; exec "$@"', "bash"]
HEAD = "parameters/head/bias"


class CheckpointTool(Programs):
    """Folder "whole run": steps 2, 4 and 6, written by two ranks."""

    def setUp(self):
        self.whole = self.folder / "whole run"
        if not self.whole.exists():
            self.train(2, run=self.whole, save_every=2, keep_last=0)
        self.newest = self.whole / "checkpoints" / "step-00000006"
        self.middle = self.whole / "checkpoints" / "step-00000004"

    def tool(self, *words, code=DONE, **rest):
        return self.job(0, "vitrail-checkpoint", *words, code=code, environment=NO_MPI, **rest)

    def said_by(self, *words, code=DONE):
        """The objects that a command prints with --json."""
        return [json.loads(line) for line in self.tool(*words, "--json", code=code).said.splitlines()]

    def copy(self):
        run = self.new_run()
        shutil.copytree(self.whole, run)
        return run, run / "checkpoints" / "step-00000006"

    def digest(self, path):
        return self.said_by("show", path, "--names", "--digest")[0]["digest"]

    # --- the program -------------------------------------------------------------------------------------------------

    def test_commands_have_manuals_and_near_misses_are_named(self):
        manual = self.tool("--help").said
        for command in ("ls", "verify", "show", "diff", "reshard", "average", "prune"):
            self.assertIn(f"vitrail-checkpoint {command} ", manual)
            said = self.tool(command, "--help").said
            self.assertIn("Exit codes: 0 ", said)
            self.assertLessEqual(max(map(len, said.splitlines())), 120)
            self.tool(command, code=USAGE)
        job = self.tool("verfiy", code=USAGE)
        self.expect_one_error(job, "'verfiy' is not a command", advice="Did you mean 'verify'\\?")
        job = self.tool("diff", self.whole, self.whole, "--tolerence", "1", code=USAGE)
        self.expect_one_error(job, "unknown option --tolerence", advice="Did you mean 'tolerance'\\?")
        self.expect_one_error(self.tool(code=USAGE), "no command is given")

    def test_paths_that_are_no_checkpoints(self):
        (self.folder / "file").write_text("mine")
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        for command in ("ls", "verify", "show"):
            for path in (self.folder / "nowhere", self.folder / "file"):
                self.assertEqual(len(self.tool(command, path, code=CHECKPOINT).errors), 1)
        for command in ("verify", "show"):
            self.assertEqual(len(self.tool(command, empty, code=CHECKPOINT).errors), 1)
        self.assertEqual(self.tool("ls", empty).said, f"{empty}: no checkpoints\n")
        self.tool("diff", self.whole, empty, code=CHECKPOINT)
        self.tool("reshard", empty, self.folder / "new", "--files", 1, code=CHECKPOINT)
        self.assertFalse((self.folder / "new").exists())

    # --- ls ----------------------------------------------------------------------------------------------------------

    def test_ls_shows_the_newest_first_with_its_writers(self):
        lines = self.tool("ls", self.whole).said.splitlines()
        self.assertEqual([line.split()[:2] for line in lines[2:]], [
            ["step-00000006", "6"], ["step-00000004", "4"], ["step-00000002", "2"]
        ])
        self.assertIn("ranks 2, EP 2", lines[2])
        self.assertTrue(lines[2].endswith("complete, latest") and lines[3].endswith("complete"), lines)
        listed = self.said_by("ls", self.whole)[0]["checkpoints"]
        self.assertEqual([one["bytes"] for one in listed][0], sum(map(len, content_of(self.newest).values())))
        self.assertEqual(listed[0]["layout"]["ranks"], 2)

    def test_ls_takes_a_run_its_folder_or_one_checkpoint_and_links_to_them(self):
        link = self.folder / "link"
        if not link.is_symlink():
            link.symlink_to(self.whole)
        for path in (self.whole, f"{self.whole}/", self.whole / "checkpoints", link):
            self.assertEqual([one["step"] for one in self.said_by("ls", path)[0]["checkpoints"]], [6, 4, 2])
        for path in (self.newest, f"{self.newest}/"):
            one = self.said_by("ls", path)[0]["checkpoints"]
            self.assertEqual([(entry["step"], entry["latest"]) for entry in one], [(6, True)])
        self.assertEqual(len(self.said_by("ls", self.whole, self.newest)), 2)

    def test_ls_tells_unfinished_and_damaged_ones(self):
        run, newest = self.copy()
        (newest / "manifest.json").unlink()
        part = next((run / "checkpoints" / "step-00000004").glob("*.h5"))
        part.write_bytes(part.read_bytes()[:-1])
        shutil.copytree(newest, run / "checkpoints" / "step-1234567890.tmp")
        shutil.copytree(run / "checkpoints" / "step-00000002", run / "checkpoints" / "step-123456789")
        (run / "checkpoints" / "notes.txt").write_text("mine")
        listed = self.said_by("ls", run, code=CHECKPOINT)[0]["checkpoints"]
        states = [(Path(one["path"]).name, one["state"]) for one in listed]
        self.assertEqual(sorted(states), [
            ("step-00000002", "complete"),
            ("step-00000004", "damaged"),
            ("step-00000006", "unfinished"),
            ("step-123456789", "complete"),
            ("step-1234567890.tmp", "unfinished"),
        ])
        self.assertIn("bytes (its manifest says", self.tool("ls", run, code=CHECKPOINT).said)

    # --- verify ------------------------------------------------------------------------------------------------------

    def test_verify_reads_all_checkpoints_of_a_run(self):
        verified = self.said_by("verify", self.whole)
        self.assertEqual([(one["step"], one["whole"]) for one in verified], [(6, True), (4, True), (2, True)])
        self.assertRegex(self.tool("verify", self.newest).said, r"whole: \d+ tensors, .* in 2 files, .* GB/s")

    def test_verify_names_tensor_file_and_place_of_one_flipped_bit(self):
        shown = self.said_by("show", self.newest, HEAD)[0]["tensors"][0]
        piece = shown["pieces"][-1]
        run, newest = self.copy()
        for byte in (piece["offset"], piece["offset"] + 4 * piece["count"] - 1):
            flip_bit(newest / piece["file"], byte)
            first, *others = self.said_by("verify", run, code=CHECKPOINT)
            self.assertTrue(all(one["whole"] for one in others))
            self.assertEqual(len(first["damages"]), 1, first)
            damage = first["damages"][0]
            self.assertEqual((damage["tensor"], damage["file"]), (HEAD, piece["file"]))
            self.assertLessEqual(damage["offset"], byte)
            self.assertGreater(damage["offset"] + (1 << 20), byte)
            said = self.tool("verify", newest, code=CHECKPOINT).said
            self.assertIn(f"{piece['file']} at byte {damage['offset']}: tensor {HEAD}: ", said)
            flip_bit(newest / piece["file"], byte)
        self.tool("verify", newest)

    def test_verify_sees_every_byte(self):
        run, newest = self.copy()
        part = next(newest.glob("part-00000*.h5"))
        size = part.stat().st_size
        pieces = [piece for one in self.said_by("show", newest, "--names")[0]["tensors"] for piece in one["pieces"]]
        first = min(piece["offset"] for piece in pieces if piece["file"] == part.name)
        # HDF5's superblock, its groups, tensors, the end of the file
        for byte in (0, 9, first - 1, first, size // 3, size // 2, size - 1):
            flip_bit(part, byte)
            said = self.tool("verify", newest, code=CHECKPOINT).said
            self.assertIn(part.name, said)
            if byte < first:
                self.assertIn(f"{part.name}: the bytes between the tensors", said)
                self.assertIsNone(self.said_by("verify", newest, code=CHECKPOINT)[0]["damages"][0]["offset"])
            flip_bit(part, byte)
        self.tool("verify", newest)

    def test_verify_sees_bits_of_the_manifest(self):
        run, newest = self.copy()
        manifest = newest / "manifest.json"
        content = manifest.read_bytes()
        for byte in range(10, len(content), len(content) // 12):
            flip_bit(manifest, byte)
            self.assertIn("DAMAGED", self.tool("verify", newest, code=CHECKPOINT).said)
            manifest.write_bytes(content)
        self.tool("verify", newest)

    def test_verify_goes_on_after_a_missing_file(self):
        run, newest = self.copy()
        next(newest.glob("*.h5")).unlink()
        verified = self.said_by("verify", run, code=CHECKPOINT)
        self.assertEqual([one["whole"] for one in verified], [False, True, True])
        self.assertIn("cannot be read", verified[0]["problem"])

    # --- show --------------------------------------------------------------------------------------------------------

    def test_show_tells_step_layout_configuration_and_numbers(self):
        said = self.tool("show", self.whole).said
        self.assertIn("step 6, written by ranks 2, EP 2", said)
        self.assertRegex(said, r"(?m)^  batch = 16$")
        self.assertRegex(said, rf"(?m)^{HEAD} +\[5\] +f32 ")
        one = self.said_by("show", self.whole, HEAD, "--values", "3")[0]["tensors"][0]
        self.assertEqual((one["shape"], one["dtype"], one["non_finite"], len(one["values"])), ([5], "f32", 0, 3))
        self.assertLessEqual(one["min"], one["mean"])
        self.assertLessEqual(one["mean"], one["max"])
        self.assertTrue(all(one["min"] <= value <= one["max"] for value in one["values"]))
        self.assertEqual(sum(piece["count"] for piece in one["pieces"]), 5)

    def test_show_reads_values_where_it_says_they_lie(self):
        one = self.said_by("show", self.whole, HEAD, "--values", "5")[0]["tensors"][0]
        values = []
        for piece in one["pieces"]:
            content = (self.newest / piece["file"]).read_bytes()
            values += struct.unpack_from(f"<{piece['count']}f", content, piece["offset"])
        self.assertEqual(values, one["values"])
        self.assertAlmostEqual(math.sqrt(sum(value * value for value in values)), one["norm"], places=6)

    def test_show_takes_the_beginning_of_names_and_names_the_nearest(self):
        names = [one["tensor"] for one in self.said_by("show", self.whole, "parameters/head", "--names")[0]["tensors"]]
        self.assertEqual(names, [HEAD, "parameters/head/kernel"])
        job = self.tool("show", self.whole, "parameters/head/bais", code=CHECKPOINT)
        self.expect_one_error_of(job, "has no tensor 'parameters/head/bais'", f"Did you mean '{HEAD}'\\?")
        self.tool("show", self.whole, HEAD, "x", code=USAGE)
        self.tool("show", self.whole, "--values", -1, code=USAGE)

    def test_show_refuses_values_that_are_damaged(self):
        run, newest = self.copy()
        piece = self.said_by("show", newest, HEAD)[0]["tensors"][0]["pieces"][0]
        flip_bit(newest / piece["file"], piece["offset"])
        self.assertEqual(len(self.tool("show", newest, HEAD, code=CHECKPOINT).errors), 1)
        self.tool("show", newest, HEAD, "--names")

    # --- diff --------------------------------------------------------------------------------------------------------

    def test_diff_of_equal_checkpoints_is_nothing(self):
        run, newest = self.copy()
        said = self.tool("diff", self.whole, newest).said
        self.assertRegex(said.splitlines()[-1], r"^\d+ tensors, 0 differ; max \|a-b\| 0, relative 0$")
        self.assertNotIn(HEAD, said)
        self.assertIn(HEAD, self.tool("diff", self.whole, newest, "--all").said)

    def test_diff_measures_what_differs(self):
        report = self.said_by("diff", self.middle, self.newest, code=NUMBERS)[0]
        self.assertEqual((report["a"]["step"], report["b"]["step"], report["equal"]), (4, 6, False))
        one = next(entry for entry in report["tensors"] if entry["tensor"] == HEAD)
        a, b = (
            self.said_by("show", path, HEAD, "--values", "5")[0]["tensors"][0]["values"]
            for path in (self.middle, self.newest)
        )
        largest = max(abs(x - y) for x, y in zip(a, b))
        self.assertAlmostEqual(one["max_abs"], largest, delta=1e-12)
        self.assertAlmostEqual(one["relative"], largest / max(map(abs, a)), delta=1e-9)
        self.assertEqual((one["result"], one["bit_equal"]), ("values", False))
        self.assertIn(HEAD, self.tool("diff", self.middle, self.newest, code=NUMBERS).said)

    def test_diff_with_a_tolerance_and_quietly(self):
        self.assertEqual(self.tool("diff", self.middle, self.newest, "--quiet", code=NUMBERS).said, "")
        self.tool("diff", self.middle, self.newest, "--tolerance", "0", "--quiet", code=NUMBERS)
        # Everything is near enough but what has been 0 before.
        report = self.said_by("diff", self.middle, self.newest, "--tolerance", "1e9")[0]
        self.assertTrue(report["equal"])
        self.tool("diff", self.middle, self.newest, "--tolerance", "-1", code=USAGE)
        self.tool("diff", self.middle, code=USAGE)
        self.tool("diff", self.middle, self.newest, self.newest, code=USAGE)

    def test_diff_names_tensors_of_one_alone_and_other_shapes_and_settings(self):
        other = self.folder / "other"
        if not other.exists():
            self.train(1, run=other, width=8, moe="none")
        report = self.said_by("diff", self.whole, other, code=NUMBERS)[0]
        kinds = {one["result"] for one in report["tensors"]}
        self.assertLessEqual({"only in A", "only in B", "shape"}, kinds)
        self.assertIn("width", report["settings_that_differ"])

    # --- reshard -----------------------------------------------------------------------------------------------------

    def test_reshard_keeps_every_bit_and_training_goes_on(self):
        digest = self.digest(self.middle)
        straight = self.new_run()
        self.train(2, run=straight, digest=True)
        for files in (1, 3):
            run = self.new_run()
            report = self.said_by("reshard", self.middle, run, "--files", files)[0]
            self.assertEqual(report["digest"], digest)
            written = run / "checkpoints" / "step-00000004"
            self.assertEqual(Path(report["to"]), written)
            self.assertEqual(len(list(written.glob("*.h5"))), files)
            self.tool("verify", run)
            self.tool("diff", self.middle, run)
            self.train(2, run=run, resume=True, digest=True)
            self.assertEqual(self.summary(run)["digest"], self.summary(straight)["digest"])

    def test_nothing_is_written_over(self):
        before = content_of(self.whole)
        (self.folder / "file").write_text("mine")
        for target in (self.whole, self.newest, self.folder / "file"):
            job = self.tool("reshard", self.whole, target, "--files", 1, code=USAGE)
            self.expect_one_error(job, "is there already", advice="Name a folder that does not exist yet")
            job = self.tool("average", self.whole, self.middle, target, code=USAGE)
            self.expect_one_error(job, "is there already", advice="Name a folder that does not exist yet")
        self.assertEqual(content_of(self.whole), before)
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_a_target_that_cannot_be_written_leaves_nothing(self):
        full = self.new_run()
        self.tool("reshard", self.whole, full, "--files", 1, code=CHECKPOINT, wrapper=FULL_DISK)
        self.assertFalse(full.exists())
        self.tool("average", self.whole, self.middle, full, code=CHECKPOINT, wrapper=FULL_DISK)
        self.assertFalse(full.exists())
        self.tool("reshard", self.whole, "/proc/run", "--files", 1, code=CHECKPOINT)
        (self.folder / "file").write_text("mine")
        self.assertEqual(len(self.tool("reshard", self.whole, self.folder / "file/run", "--files", 1, code=CHECKPOINT).errors), 1)

    def test_a_damaged_source_is_refused_and_leaves_nothing(self):
        run, newest = self.copy()
        piece = self.said_by("show", newest, HEAD)[0]["tensors"][0]["pieces"][0]
        flip_bit(newest / piece["file"], piece["offset"])
        target = self.new_run()
        job = self.tool("reshard", run, target, "--files", 1, code=CHECKPOINT)
        self.assertIn(HEAD, job.errors[0])
        self.tool("average", self.middle, run, target, code=CHECKPOINT)
        self.assertFalse(target.exists())

    def test_reshard_wants_two_paths_and_a_number(self):
        target = self.new_run()
        self.tool("reshard", self.whole, target, code=USAGE)
        self.tool("reshard", self.whole, "--files", 2, code=USAGE)
        for files in (0, -1, 100000):
            self.tool("reshard", self.whole, target, "--files", files, code=USAGE)
        self.assertFalse(target.exists())

    # --- average -----------------------------------------------------------------------------------------------------

    def test_average_is_the_mean_of_parameters_alone(self):
        mean = self.new_run()
        self.tool("average", self.middle, self.newest, mean)
        a, b, m = (
            self.said_by("show", path, HEAD, "--values", "5")[0]["tensors"][0]["values"]
            for path in (self.middle, self.newest, mean)
        )
        for x, y, found in zip(a, b, m):
            self.assertAlmostEqual(found, (x + y) / 2, delta=1e-7 * abs(x))
        shown = self.said_by("show", mean, "--names")[0]
        self.assertEqual(shown["step"], 6)
        self.assertEqual([one["weight"] for one in shown["layout"]["average_of"]], [1, 1])
        self.assertTrue(all(one["tensor"].startswith("parameters/") for one in shown["tensors"]))
        self.tool("verify", mean)
        self.evaluate(run=mean)
        self.train(1, run=self.new_run(), init_from=mean)
        self.train(1, run=mean, resume=True, code=CHECKPOINT)

    def test_average_with_weights(self):
        same = self.new_run()
        self.tool("average", self.middle, self.newest, same, "--weights", 0, 3)
        report = self.said_by("diff", self.newest, same, code=NUMBERS)[0]
        kinds = {one["result"] for one in report["tensors"] if one["tensor"].startswith("parameters/")}
        self.assertEqual(kinds, {"equal"})
        for weights in ([1], [1, 2, 3], [1, -1], [0, 0], ["x", 1]):
            self.tool("average", self.middle, self.newest, self.folder / "no", "--weights", *weights, code=USAGE)
        self.assertFalse((self.folder / "no").exists())

    def test_average_of_other_models_is_refused(self):
        other = self.folder / "other"
        if not other.exists():
            self.train(1, run=other, width=8, moe="none")
        job = self.tool("average", self.whole, other, self.folder / "no", code=CHECKPOINT)
        self.assertIn("only checkpoints of the same model have a mean", job.errors[0])
        self.assertFalse((self.folder / "no").exists())

    # --- prune -------------------------------------------------------------------------------------------------------

    def steps(self, run):
        return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))

    def test_prune_keeps_the_newest_and_milestones(self):
        run, _ = self.copy()
        before = content_of(run)
        said = self.tool("prune", run, "--keep-last", 1, "--keep-every", 4, "--dry-run").said
        self.assertIn("would remove", said)
        self.assertEqual(content_of(run), before)
        self.tool("prune", run, "--keep-last", 1, "--keep-every", 4)
        self.assertEqual(self.steps(run), [4, 6])
        report = self.said_by("prune", run, "--keep-last", 1)[0]
        self.assertEqual([Path(path).name for path in report["removed"]], ["step-00000004"])
        self.assertEqual(self.steps(run), [6])
        self.assertIn("0 of 1 removed", self.tool("prune", run, "--keep-last", 1).said)
        self.tool("verify", run)

    def test_prune_leaves_the_latest_and_what_is_not_complete(self):
        run, newest = self.copy()
        (run / "checkpoints" / "latest").write_text("step-00000002\n")
        (newest / "manifest.json").unlink()
        self.tool("prune", run, "--keep-last", 1)
        self.assertEqual(self.steps(run), [2, 4, 6])
        self.tool("prune", run, "--keep-last", 0, code=USAGE)
        self.tool("prune", run, code=USAGE)
        self.tool("prune", run, "--keep-last", 1, "--keep-every", -4, code=USAGE)
        self.assertEqual(self.steps(run), [2, 4, 6])

    def expect_one_error_of(self, job, problem, advice=".*"):
        """As expect_one_error, for a program without ranks."""
        self.assertEqual(len(job.errors), 1, job.said)
        self.assertRegex(job.errors[0], rf"^vitrail-checkpoint: error: .*{problem}.* \(.+\)\.? ?{advice}$")


if __name__ == "__main__":
    programs.main()

"""What the programs say of themselves, and where settings come from: preset < configuration file < command line."""

import os
import pty
import subprocess
import unittest

import programs
from programs import Programs, options


class Manual(Programs):
    def test_help_and_version_need_no_mpi(self):
        # Not even an MPI that works: with this setting MPI_Init fails.
        environment = {"OMPI_MCA_pml": "nothing"}
        everything = sorted(path.name for path in programs.programs.glob("vitrail-*") if os.access(path, os.X_OK))
        everything = [program for program in everything if not program.endswith("-emulated")]  # the same, for tests
        self.assertGreaterEqual(set(everything), {"vitrail-train", "vitrail-eval", "vitrail-pack"})
        for program in everything:
            with self.subTest(program):
                said = self.job(0, program, "--help", environment=environment).said
                self.assertIn(program, said)
                self.assertIn("--version", said)
                self.assertLessEqual(max(map(len, said.splitlines())), 120)
                said = self.job(0, program, "--version", environment=environment).said
                self.assertRegex(said, rf"^{program} \(Vitrail\) \d+\.\d+\.\d+\n$")

    def print_config(self, *words):
        """The merged configuration, and its settings as a dictionary."""
        text = self.job(0, "vitrail-train", *words, "--print-config").said
        pairs = [line.split(" = ", 1) for line in text.splitlines() if " = " in line and not line.startswith("#")]
        return text, dict(pairs)

    def test_what_is_printed_is_accepted_and_says_the_same(self):
        config = self.folder / "printed.cfg"
        settings = {"capacity_slots": 5, "steps": 12, "shift": 2, "data": ["a b", "c"]}
        settings |= {"weight_decay_pattern": "kernel$|bias", "learning_rate": 1 / 3, "run_dir": "run"}
        settings |= {"resume": True, "save_every": 7, "progress": "log"}
        for words in ([], options(**settings), ["--preset", "fmnist-dense"]):
            text, _ = self.print_config(*words)
            config.write_text(text)
            self.assertEqual(self.print_config("--config", config)[0], text)
            self.assertEqual(self.print_config("--preset", "fmnist-dense", "--config", config)[0], text)

    def test_the_command_line_goes_before_the_file_and_the_file_before_the_preset(self):
        config = self.folder / "layers.cfg"
        config.write_text("width = 32 # of a token\nepochs = 3\n\ncapacity-slots = 9\n")
        _, preset = self.print_config()
        _, merged = self.print_config("--config", config, "--heads", 8)
        self.assertEqual((preset["width"], merged["width"]), ("64", "32"))
        self.assertEqual((preset["heads"], merged["heads"]), ("4", "8"))
        self.assertEqual(preset["mlp-width"], merged["mlp-width"])
        _, merged = self.print_config("--width", 128, "--config", config)
        self.assertEqual(merged["width"], "128")

    def test_of_two_ways_to_say_one_thing_the_higher_layer_counts(self):
        config = self.folder / "ways.cfg"
        config.write_text("epochs = 3\ncapacity-slots = 9\n")
        _, merged = self.print_config("--config", config)
        self.assertEqual((merged["epochs"], merged["steps"], merged["capacity-slots"]), ("3", "0", "9"))
        self.assertNotIn("capacity-factor", merged)
        _, merged = self.print_config("--config", config, "--steps", 20, "--capacity-factor", 2)
        self.assertEqual((merged["epochs"], merged["steps"], merged["capacity-factor"]), ("0", "20", "2"))
        self.assertNotIn("capacity-slots", merged)

    def on_a_terminal(self, ranks, **settings):
        """What a short training shows on a terminal."""
        words = options(**{k.replace("-", "_"): v for k, v in programs.MODEL.items()})
        words += options(data=self.data, run_dir=self.new_run(), **settings)
        ours, theirs = pty.openpty()
        command = self.command(ranks, "vitrail-train", words)
        with subprocess.Popen(command, stdout=theirs, stdin=subprocess.DEVNULL) as job:
            os.close(theirs)
            said = b""
            while piece := self.read_terminal(ours):
                said += piece
        os.close(ours)
        self.assertEqual(job.returncode, 0, said)
        return said.decode()

    @staticmethod
    def read_terminal(terminal):
        try:
            return os.read(terminal, 4096)
        except OSError:  # Linux says EIO when the other side is closed
            return b""

    def test_progress_is_redrawn_only_where_somebody_may_sit(self):
        redrawn = "\r" + "step 6/6  loss"
        self.assertIn(redrawn, self.on_a_terminal(0))
        self.assertNotIn("\x1b[K", self.on_a_terminal(0, progress="log"))
        # Launched ranks are given a terminal of their own, whatever becomes of what they say.
        self.assertNotIn("\x1b[K", self.on_a_terminal(2))
        self.assertIn("\x1b[K", self.on_a_terminal(2, progress="terminal"))
        said = self.train(2, run=self.new_run()).said
        self.assertIn("\nstep 6/6  loss", said)
        self.assertNotIn("\r", said)


if __name__ == "__main__":
    programs.main()

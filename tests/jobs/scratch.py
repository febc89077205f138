"""A scratch repository with this one's jobs/, and a PATH of stand-ins that write down how they were called."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = "awk bash cat dirname env grep head mkdir mktemp mv printf rm sed tail tee touch".split()


class Scratch(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name) / "repository"
        self.bin = Path(folder.name) / "bin"
        self.log = Path(folder.name) / "calls"
        self.bin.mkdir()
        self.log.touch()
        shutil.copytree(ROOT / "jobs", self.root / "jobs")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def stand_in(self, name, body="", folder=None):
        """A program that notes its call and then does `body`."""
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"{self.log}"\n{body}\n', encoding="utf-8")
        path.chmod(0o755)

    def call(self, *command, **environment):
        """The finished script; its stderr is in stdout too."""
        return subprocess.run(
            command,
            cwd=self.root,
            env={"PATH": str(self.bin), "HOME": str(self.root), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self, name):
        """How a stand-in was called since the last time this was asked."""
        return [line[len(name) + 1 :] for line in self.log.read_text().splitlines() if line.split()[0] == name]

    def forget_calls(self):
        os.truncate(self.log, 0)

#!/usr/bin/env python3
"""Installs a build, moves what was installed elsewhere, and lets every program explain itself from there.

    check_install.py BUILD
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main(build):
    wanted = {path.stem for top in ("apps", "data_tools") for path in (ROOT / top).glob("vitrail-*.cpp")}
    faults = []
    with tempfile.TemporaryDirectory(prefix="vitrail-install-") as folder:
        first, moved = Path(folder) / "first", Path(folder) / "moved"
        subprocess.run(["cmake", "--install", build, "--prefix", str(first)], check=True, stdout=subprocess.DEVNULL)
        first.rename(moved)
        programs = sorted((moved / "bin").iterdir()) if (moved / "bin").is_dir() else []
        if {program.name for program in programs} != wanted or not wanted:
            faults.append(f"installed are {[program.name for program in programs]}, not {sorted(wanted)}")
        for program in programs:
            for option in ("--help", "--version"):
                done = subprocess.run([program, option], capture_output=True, text=True, timeout=60, check=False)
                if done.returncode != 0 or not done.stdout.strip():
                    faults.append(f"{program.name} {option} ends with {done.returncode}: {done.stderr.strip()}")
            linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            for line in re.findall(rf"^.*(?:not found|{re.escape(build)}).*$", linked, re.MULTILINE):
                faults.append(f"{program.name} needs {line.strip()}")
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"install: {len(programs)} programs, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))

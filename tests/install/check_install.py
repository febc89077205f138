#!/usr/bin/env python3
"""Installs a build, moves what was installed elsewhere, and lets every program explain itself from there. The job scripts
find the programs beside them.

    check_install.py BUILD
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def faults_of_jobs(installed, stand_ins):
    """With a stand-in for srun that prints what it was called with."""
    faults = []
    jobs = installed / "share/vitrail/jobs"
    wanted = {path.name for path in (ROOT / "jobs").glob("*.sbatch")} | {"cluster.env"}
    if missing := wanted - {path.name for path in jobs.glob("*")}:
        return [f"not installed in share/vitrail/jobs: {sorted(missing)}"]
    stand_ins.mkdir()
    (stand_ins / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (stand_ins / "srun").chmod(0o755)
    environment = {"PATH": f"{stand_ins}:{os.environ['PATH']}", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}
    for script in sorted(jobs.glob("*.sbatch")):
        done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0 or script.name not in done.stdout:
            faults.append(f"{script.name} --help ends with {done.returncode}: {done.stdout}{done.stderr}")
    done = subprocess.run(
        [jobs / "evaluate.sbatch", "--run-dir", "a b"], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )
    if done.returncode != 0 or f"{installed}/bin/vitrail-eval --run-dir a b" not in done.stdout:
        faults.append(f"evaluate.sbatch ends with {done.returncode}: {done.stdout}{done.stderr}")
    return faults


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
        faults += faults_of_jobs(moved, Path(folder) / "stand-ins")
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"install: {len(programs)} programs, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))

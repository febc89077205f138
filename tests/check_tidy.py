#!/usr/bin/env python3
"""Runs clang-tidy (.clang-tidy) over the C++ files that a change touches; a finding fails.

    tests/check_tidy.py [--build DIR] [--seconds N]    files that differ from origin/main, else from the commit before
    tests/check_tidy.py [--build DIR] --all            every source, however long it takes

DIR is a configured build folder (default build/dev). A changed header is seen through its source, its test, or a
source that includes it. No file is begun after N seconds (default 180): what was left out is named, and --all sees it.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("*.cpp", "*.hpp", "*.cu")
CLANG_TIDY = os.environ.get("CLANG_TIDY", "clang-tidy")


def git(*arguments):
    """What git prints, in lines; None if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else None


def base_commit():
    """The commit that the change is compared with: where it left origin/main, else the one before; None if unknown."""
    head = git("rev-parse", "HEAD")
    base = git("merge-base", "origin/main", "HEAD")
    if base and (base != head or git("status", "--porcelain", "--", *KINDS)):
        return base[0]
    before = git("rev-parse", "--verify", "--quiet", "HEAD~1")
    return before[0] if before else None


def changed_files(base):
    """C++ files that differ from `base`, as {path: number of changed lines}."""
    changed = {}
    for line in git("diff", "--numstat", "--no-renames", "--diff-filter=d", base, "--", *KINDS):
        added, removed, path = line.split("\t")
        changed[path] = int(added) + int(removed)
    for path in git("ls-files", "--others", "--exclude-standard", "--", *KINDS):
        changed[path] = len((ROOT / path).read_bytes().splitlines())
    return changed


def compiled_files(build):
    """The sources of ours that this build compiles."""
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    files = (Path(command["directory"], command["file"]).resolve() for command in commands)
    return {file.relative_to(ROOT).as_posix() for file in files if file.is_relative_to(ROOT)}


def write_commands_for_clang(build):
    """The build's commands without g++'s precompiled headers, which clang cannot read: into DIR/tidy."""
    commands = (build / "compile_commands.json").read_text(encoding="utf-8")
    (build / "tidy").mkdir(exist_ok=True)
    without = re.sub(r" -include [^\s\"]*/cmake_pch\.hxx| -Winvalid-pch", "", commands)
    (build / "tidy" / "compile_commands.json").write_text(without, encoding="utf-8")


def source_of_header(path, compiled):
    """A compiled source through which a header is seen; None if there is none."""
    header = Path(path)
    room = header.parts[1] if len(header.parts) > 2 else ""
    likely = [header.with_suffix(".cpp").as_posix()]
    likely += [f"tests/{room}/{kind}_{header.stem}.cpp" for kind in ("test", "ranks")]
    spelled = path.removeprefix("src/")
    likely += git("grep", "-lF", "--untracked", f'"{spelled}"', "--", "*.cpp") or []
    return next((source for source in likely if source in compiled), None)


def tidy(source, build):
    """(passed, what it printed) of one source."""
    command = [CLANG_TIDY, "-p", str(build / "tidy"), "--quiet", "--extra-arg=-Wno-unknown-warning-option"]
    command += [f"--extra-arg-before=-include{ROOT}/tests/tidy/source_location.hpp", str(ROOT / source)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if not re.fullmatch(r"\d+ warnings? generated\.", line)]
    return done.returncode == 0, "\n".join([done.stdout.strip(), *errors]).strip()


def choose(arguments, build):
    """The sources to look at, those with most changed lines first; prints what cannot be looked at."""
    compiled = compiled_files(build)
    if arguments.all:
        return sorted(compiled)
    base = base_commit()
    if base is None:
        print("tidy: skipped: no commit to compare with (a clone without history?)")
        return []
    weights, unseen = {}, []
    for path, lines in changed_files(base).items():
        source = source_of_header(path, compiled) if path.endswith(".hpp") else path
        if path.endswith(".cu"):  # as the emulation compiles it
            source = (build / "emulated" / f"{path}.emulated.cpp").relative_to(ROOT).as_posix()
        if source in compiled:
            weights[source] = weights.get(source, 0) + lines
        else:
            unseen.append(path)
    if unseen:
        print(f"tidy: not compiled in {build}, so not looked at: {' '.join(sorted(unseen))}")
    if not weights:
        print(f"tidy: skipped: no compiled C++ file differs from {base[:12]}")
    return sorted(weights, key=lambda source: (-weights[source], source))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/dev", metavar="DIR")
    parser.add_argument("--seconds", type=float, default=180.0, metavar="N")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    build = (ROOT / arguments.build).resolve()
    if not (build / "compile_commands.json").is_file():
        print(f"tidy: no {build}/compile_commands.json. Configure first: cmake --preset dev", file=sys.stderr)
        return 2
    sources = choose(arguments, build)
    if not sources:
        return 0
    write_commands_for_clang(build)
    start = time.monotonic()
    failed, left_out = [], []

    def look(source):
        if not arguments.all and time.monotonic() - start > arguments.seconds:
            left_out.append(source)
            return
        passed, printed = tidy(source, build)
        if not passed:
            failed.append(source)
            print(printed, flush=True)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as team:
        list(team.map(look, sources))
    if left_out:
        print(f"tidy: {arguments.seconds:.0f} s are over; not looked at: {' '.join(sorted(left_out))}")
    print(f"tidy: {len(sources) - len(left_out)} of {len(sources)} files looked at, {len(failed)} with findings")
    for source in sorted(failed):
        print(f"  {source}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

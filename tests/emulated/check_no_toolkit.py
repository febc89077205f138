#!/usr/bin/env python3
"""Checks that what is compiled for the emulation of CUDA sees none of the toolkit's own headers.

    tests/emulated/check_no_toolkit.py BUILD_FOLDER

Asks Ninja for the headers that every object of the emulation was compiled with (its dependency log). Fails (exit 1)
when one came from an installed toolkit, or when there is nothing to check.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = {path.name for path in (ROOT / "src/device/cuda_emulated").iterdir() if path.suffix in (".h", ".hpp")}
TARGETS = ("vitrail_cuda_emulated.dir", "test_emulated.dir", "test_cuda_emulated.dir")


def dependencies_of(build):
    """(object, [headers]) of everything in Ninja's dependency log."""
    listing = subprocess.run(["ninja", "-C", build, "-t", "deps"], check=True, capture_output=True, text=True).stdout
    for block in listing.split("\n\n"):
        lines = block.strip().splitlines()
        if lines and ": #deps" in lines[0] and "(VALID)" in lines[0]:
            yield lines[0].split(": #deps")[0], [line.strip() for line in lines[1:]]


def is_of_the_toolkit(header):
    """Outside of this tree: a header of the emulation's names, or in a folder of CUDA. Inside: the real intrinsics."""
    if header.is_relative_to(ROOT):
        return header.is_relative_to(ROOT / "src/device/cuda/intrinsics")
    return header.name in NAMES or any(part.startswith("cuda") for part in header.parts)


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    objects, faults = 0, 0
    for target, headers in dependencies_of(arguments[0]):
        if not any(name in target for name in TARGETS):
            continue
        objects += 1
        for header in headers:
            path = (Path(arguments[0]) / header).resolve()
            if is_of_the_toolkit(path):
                faults += 1
                print(f"FAULT {target} was compiled with {path}")
    if objects == 0:
        print("FAULT nothing of the emulation was built here")
    print(f"emulation: {objects} objects, {faults} headers of the toolkit")
    return 1 if faults or objects == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

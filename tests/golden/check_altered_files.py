"""Alters golden files and expects vitrail-selftest to notice: exit codes and verdicts.

check_altered_files.py VITRAIL_SELFTEST ALTERED_FILE FOLDER_OF_GOLDEN_FILES
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile


def golden(selftest, *paths):
    return subprocess.run([selftest, "golden", *map(str, paths)], capture_output=True, text=True)


def main():
    selftest, altered_file, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    original = folder / "model_gray28.h5"
    problems = []

    def expect(run, code, wanted, what):
        if run.returncode != code or wanted not in run.stdout:
            problems.append(f"{what}: exit code {run.returncode} instead of {code}, or no '{wanted}' in\n{run.stdout}")

    with tempfile.TemporaryDirectory() as scratch:
        copies = {}
        for change in ("value", "integer", "key", "setting"):
            copies[change] = pathlib.Path(scratch) / f"{change}.h5"
            subprocess.run([altered_file, original, copies[change], change], check=True)
        damaged = pathlib.Path(scratch) / "damaged.h5"
        damaged.write_bytes(original.read_bytes()[:5000])

        expect(golden(selftest, original), 0, " 0 failed", "the original")
        value = golden(selftest, copies["value"])
        expect(value, 5, "FAIL", "a changed logit")
        if value.stdout.count("FAIL") != 1 or "/out/logits" not in value.stdout.split("FAIL", 1)[1].splitlines()[0]:
            problems.append("a changed logit: one line, that of /out/logits, should have failed")
        expect(golden(selftest, copies["integer"]), 5, "1 of 400 differ", "a changed slot")
        expect(golden(selftest, copies["key"]), 1, "UNSUPPORTED   model/stochastic_depth = 0.1", "an unknown key")
        expect(golden(selftest, copies["setting"]), 1, "UNSUPPORTED   model/classifier = mean", "an unbuilt classifier")
        expect(golden(selftest, damaged), 3, "UNREADABLE", "a damaged file")
        expect(golden(selftest, pathlib.Path(scratch) / "none.h5"), 3, "UNREADABLE", "a missing file")
        # Of a checkpoint: a byte of a tensor, then without its files.
        checkpoint = pathlib.Path(scratch) / "checkpoint_train_state"
        shutil.copy(folder / "checkpoint_train_state.h5", scratch)
        shutil.copytree(folder / "checkpoint_train_state", checkpoint)
        part = checkpoint / "ckpt_7.data-00001-of-00002"
        content = bytearray(part.read_bytes())
        content[content.index(b"bfloat16") + 12] ^= 1
        part.write_bytes(content)
        changed = golden(selftest, checkpoint.with_suffix(".h5"))
        expect(changed, 5, "FAIL          /tensors/opt_state/0/mu/a", "a changed byte of a checkpoint")
        expect(changed, 5, " 1 failed", "a changed byte of a checkpoint")
        shutil.rmtree(checkpoint)
        expect(golden(selftest, checkpoint.with_suffix(".h5")), 3, "UNREADABLE", "a checkpoint without its files")
        # The others are run all the same, and the gravest verdict decides.
        mixed = golden(selftest, damaged, copies["key"], original)
        expect(mixed, 3, " 1 unsupported, 1 unreadable", "a damaged, an unsupported and a good file")
        expect(golden(selftest, copies["key"], copies["value"]), 5, " 1 unsupported", "an unsupported and a wrong file")
    print("\n".join(problems) or "all alterations were noticed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

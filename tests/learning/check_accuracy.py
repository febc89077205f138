#!/usr/bin/env python3
"""Trains the preset fmnist on real images and asks for an accuracy.

    check_accuracy.py PROGRAMS EPOCHS MINIMUM SEED... -- LAUNCHER...

Packs Fashion-MNIST (Debian package dataset-fashion-mnist), trains on 2 ranks with the experts spread over both, once
for each seed, and evaluates on the 10,000 test images. Fails if the mean accuracy in percent is below MINIMUM. Prints
one line a seed: accuracy, seconds of training, and accuracy in vanilla and prioritized order at capacity 0.25.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path("/usr/share/datasets/fashion-mnist")


def run(words):
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode} of {words}\n{done.stdout}\n{done.stderr}")


def main():
    cut = sys.argv.index("--")
    programs, epochs, minimum, *seeds = sys.argv[1:cut]
    launcher = [word.replace("{ranks}", "2") for word in sys.argv[cut + 1 :]]
    programs = Path(programs)
    accuracies = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for split, prefix in (("train", "train"), ("test", "t10k")):
            run([programs / "vitrail-pack", "--images", IMAGES / f"{prefix}-images-idx3-ubyte.gz", "--labels",
                 IMAGES / f"{prefix}-labels-idx1-ubyte.gz", "--output", scratch / split, "--shards", 4,
                 "--classes", 10])
        for seed in seeds:
            run_dir = scratch / f"seed-{seed}"
            ranks = ["--run-dir", run_dir, "--expert-parallel", 2, "--threads", 1]
            run([*launcher, programs / "vitrail-train", "--preset", "fmnist", "--data", scratch / "train",
                 "--epochs", epochs, "--seed", seed, *ranks])
            run([*launcher, programs / "vitrail-eval", "--data", scratch / "test", "--capacity-table", 0.25, *ranks])
            summary = json.loads((run_dir / "summary.json").read_text())
            evaluation = json.loads((run_dir / "evaluation.json").read_text())
            accuracies.append(100 * evaluation["test_accuracy"])
            low = evaluation["capacity_table"][0]
            print(f"seed {seed}: {accuracies[-1]:.2f} % after {summary['train_wall_s']:.0f} s;"
                  f" at capacity 0.25 vanilla {100 * low['vanilla']['accuracy']:.2f} %,"
                  f" prioritized {100 * low['prioritized']['accuracy']:.2f} %", flush=True)
    mean = statistics.mean(accuracies)
    print(f"mean {mean:.2f} %, wanted at least {minimum} %")
    return 0 if mean >= float(minimum) else 1


if __name__ == "__main__":
    sys.exit(main())

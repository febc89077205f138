#!/usr/bin/env python3
"""Trains the same models with vitrail-bench and with PyTorch, in turn on this machine, and prints a table of the ratios.

    tests/bench/compare_with_pytorch.py --peer 'python torch_vmoe.py' [--programs build/release] [--rounds 3]
                                        [--threads N] [--steps N] [--case MODEL:BATCH:PRECISION[:MORE] ...]
                                        [--own='OPTIONS' --own='OTHER OPTIONS' ...]

The peer is any command that takes --model, --batch, --threads and --dtype (and MORE of a case), times whole training
steps (forward, backward, AdamW), and prints one JSON line with the keys of `vitrail-bench step --json`: images_per_s,
gflops, step_s, peak_gflops (with --peak), peak_rss_GiB, first_step_s. With --steps both sides time so many steps after
a tenth as many (the peer takes --steps and --warmup, too), else as many as each does by itself: steps of milliseconds
get faster for a second. Each --own is a way to run vitrail-bench, with these options more, and gets a row of its own.
Every round runs each way and the peer once and is reported on stderr; of each side, and of the rounds' ratios, the median
counts. The ceiling is the largest GEMM peak that either side measured in any round. What is in the environment
(LD_PRELOAD ...) is the peer's alone: name it in PEER_ENVIRONMENT, as NAME=VALUE NAME=VALUE.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

# The last part is what the peer is fastest with.
CASES = [
    f"{model}:{batch}:{precision}:{more}"
    for model, batch, more in (
        ("s32", 16, ""),
        ("b16", 8, ""),
        ("s32-e32", 16, ""),
        ("b16-dense", 8, ""),
        ("fmnist", 64, "--attention math --compile"),
    )
    for precision in ("f32", "bf16")
]
COLUMNS = ["model, batch, precision", "images/s", "peer's", "ratio", "GFLOP/s", "of the peak", "memory, GiB", "peer's"]
COLUMNS += ["first step, s", "peer's"]


def last_json(command, environment=None):
    """The last JSON line that a command prints."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        sys.exit(f"{shlex.join(command)} returned {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads(lines[-1])


def of_steps(steps):
    return ["--steps", str(steps), "--warmup", str(steps // 10)] if steps else []


def ours(programs, model, batch, precision, threads, steps, more):
    which = ["--preset", "fmnist"] if model == "fmnist" else ["--model", model]
    command = [str(programs / "vitrail-bench"), "step", *which, "--batch", batch, "--threads", str(threads)]
    return last_json([*command, "--precision", precision, "--seconds", "2", "--json", *of_steps(steps), *shlex.split(more)])


def theirs(peer, model, batch, precision, threads, more, steps):
    environment = dict(os.environ)
    environment.update(pair.split("=", 1) for pair in shlex.split(os.environ.get("PEER_ENVIRONMENT", "")))
    command = [*shlex.split(peer), "--model", model, "--batch", batch, "--threads", str(threads), "--dtype", precision]
    return last_json([*command, *shlex.split(more), "--peak", *of_steps(steps)], environment)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--programs", type=Path, default=Path("build/release"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int)
    parser.add_argument("--case", nargs="+", default=CASES, help="MODEL:BATCH:PRECISION[:MORE]")
    parser.add_argument("--own", action="append", help="options of vitrail-bench step, for a row of their own")
    arguments = parser.parse_args()
    ways = arguments.own or [""]
    print("|", " | ".join(COLUMNS), "|")
    print("|---" * len(COLUMNS) + "|")
    for case in arguments.case:
        model, batch, precision, more = (case + ":").split(":")[:4]
        rounds = []
        for _ in range(arguments.rounds):
            sides = [
                ours(arguments.programs, model, batch, precision, arguments.threads, arguments.steps, own) for own in ways
            ]
            sides.append(theirs(arguments.peer, model, batch, precision, arguments.threads, more, arguments.steps))
            rounds.append(sides)
            speeds = [f"{side['images_per_s']:.4g} images/s, peak {side.get('peak_gflops') or 0:.0f}" for side in sides]
            print(f"{case}: {'; '.join(speeds[:-1])}; the peer {speeds[-1]}", file=sys.stderr)

        def median(side, key, rounds=rounds):
            return statistics.median(one[side][key] for one in rounds)

        peak = max(side.get("peak_gflops") or 0 for sides in rounds for side in sides)
        for way, own in enumerate(ways):
            ratio = statistics.median(one[way]["images_per_s"] / one[-1]["images_per_s"] for one in rounds)
            print(
                f"| {model}, {batch}, {precision}{', ' if own else ''}{own} "
                f"| {median(way, 'images_per_s'):.4g} | {median(-1, 'images_per_s'):.4g} "
                f"| {ratio:.2f} | {median(way, 'gflops'):.0f} | {median(way, 'gflops') / peak:.2f} of {peak:.0f} "
                f"| {median(way, 'peak_rss_GiB'):.2f} | {median(-1, 'peak_rss_GiB'):.2f} "
                f"| {median(way, 'first_step_s'):.1f} | {median(-1, 'first_step_s'):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

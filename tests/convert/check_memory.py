#!/usr/bin/env python3
"""Converts a synthetic V-MoE of any size through all streaming formats, and measures the peak memory.

    check_memory.py vitrail-checkpoint [--gigabytes 0.3] [--limit-mib 400] [--folder DIR]

Made is a safetensors file; converted are safetensors -> run directory -> flax -> safetensors. Fails when a conversion's
peak resident set is above the limit, or when a tensor's bytes are others at the end. Needs twice the size on disk.
20 GB: --gigabytes 20 --limit-mib 2048.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STRETCH = 4 << 20  # bytes


def tensors_of_model(gigabytes):
    """Names and shapes, timm's and ours, of a V-MoE whose blocks are all sparse."""
    width = 256 if gigabytes < 4 else 1280
    hidden, experts, tokens, classes = 4 * width, 32, 50, 1000
    block = 8 * experts * width * hidden  # bytes of its experts' matrices
    blocks = max(1, round(gigabytes * 1e9 / block))
    yield "patch_embed.proj.weight", (width, 3, 32, 32)
    yield "patch_embed.proj.bias", (width,)
    yield "cls_token", (1, 1, width)
    yield "pos_embed", (1, tokens, width)
    for i in range(blocks):
        at = f"blocks.{i}."
        for norm in ("norm1", "norm2"):
            yield at + norm + ".weight", (width,)
            yield at + norm + ".bias", (width,)
        yield at + "attn.qkv.weight", (3 * width, width)
        yield at + "attn.qkv.bias", (3 * width,)
        yield at + "attn.proj.weight", (width, width)
        yield at + "attn.proj.bias", (width,)
        yield at + "moe.router.weight", (experts, width)
        yield at + "moe.experts.fc1.weight", (experts, hidden, width)
        yield at + "moe.experts.fc1.bias", (experts, hidden)
        yield at + "moe.experts.fc2.weight", (experts, width, hidden)
        yield at + "moe.experts.fc2.bias", (experts, width)
    yield "norm.weight", (width,)
    yield "norm.bias", (width,)
    yield "head.weight", (classes, width)
    yield "head.bias", (classes,)


def size_of(shape):
    size = 4
    for length in shape:
        size *= length
    return size


def make(path, tensors):
    """Writes a safetensors file of random bytes; returns the SHA-256 of every tensor."""
    header, offset = {}, 0
    for name, shape in tensors:
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size_of(shape)]}
        offset += size_of(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digests = {}
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            digest, left, numbers = hashlib.sha256(), size_of(shape), random.Random(name)
            while left > 0:
                stretch = numbers.randbytes(min(left, STRETCH))
                digest.update(stretch)
                out.write(stretch)
                left -= len(stretch)
            digests[name] = digest.hexdigest()
    return digests


def digests_of_file(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            first, end = tensor["data_offsets"]
            file.seek(8 + length + first)
            digest, left = hashlib.sha256(), end - first
            while left > 0:
                stretch = file.read(min(left, STRETCH))
                if not stretch:
                    sys.exit(f"{path} ends inside {name}")
                digest.update(stretch)
                left -= len(stretch)
            yield name, digest.hexdigest()


def digests_of(path):
    """Of one file, or of all that an index names."""
    index = Path(str(path) + ".index.json")
    files = [path]
    if index.exists():
        files = sorted({path.parent / file for file in json.loads(index.read_text())["weight_map"].values()})
    found = {}
    for file in files:
        found.update(digests_of_file(file))
    return found


def convert(program, source, target):
    """Returns the peak resident set in MiB."""
    begin = time.monotonic()
    process = subprocess.Popen([program, "convert", source, target], stdout=subprocess.PIPE, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"convert {source} {target} ended with {process.returncode}: {said}")
    peak = usage.ru_maxrss / 1024
    seconds = time.monotonic() - begin
    print(f"{Path(source).name:>20} -> {Path(target).name:<20} peak {peak:7.0f} MiB, {seconds:6.1f} s", flush=True)
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--gigabytes", type=float, default=0.3)
    parser.add_argument("--limit-mib", type=float, default=400)
    parser.add_argument("--folder", help="where the files are made and removed")
    arguments = parser.parse_args()
    program = os.path.abspath(arguments.program)
    tensors = list(tensors_of_model(arguments.gigabytes))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        first, run, flax, last = (folder / name for name in ("first.safetensors", "run", "flax.index",
                                                             "last.safetensors"))
        digests = make(first, tensors)
        total = sum(size_of(shape) for _, shape in tensors)
        largest = max(size_of(shape) for _, shape in tensors)
        print(f"{len(tensors)} tensors, {total / 1e9:.2f} GB, the largest {largest / 2**20:.0f} MiB", flush=True)
        peaks = [convert(program, first, run)]
        first.unlink()
        peaks.append(convert(program, run, flax))
        shutil.rmtree(run)
        peaks.append(convert(program, flax, last))
        found = digests_of(last)
    differing = sorted(name for name in digests.keys() | found.keys() if digests.get(name) != found.get(name))
    if differing:
        sys.exit(f"{len(differing)} tensors differ, {differing[0]} among them")
    print(f"all tensors have their bytes again; peak {max(peaks):.0f} MiB, allowed {arguments.limit_mib:.0f}")
    if max(peaks) > arguments.limit_mib:
        sys.exit("that is too much")


if __name__ == "__main__":
    main()

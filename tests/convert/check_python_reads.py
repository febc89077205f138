#!/usr/bin/env python3
"""Files of arrays between Vitrail and Python, in both directions.

    check_python_reads.py TENSOR_FILE [--large]

Python's own zipfile, json and struct write and read the files, so that this runs everywhere. Where NumPy, ml_dtypes and
the safetensors package can be imported, they do it too; what is missing is said. --large does one thing instead: an array
of more than 4 GiB.
"""

import ast
import hashlib
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

DESCR = {"f32": "<f4", "f64": "<f8", "bf16": "|V2", "i32": "<i4", "i64": "<i8", "u8": "|u1"}
TORCH = {"f32": "F32", "f64": "F64", "bf16": "BF16", "i32": "I32", "i64": "I64", "u8": "U8"}
SIZE = {"f32": 4, "f64": 8, "bf16": 2, "i32": 4, "i64": 8, "u8": 1}
CHECKPOINT = 4


def elements(shape):
    count = 1
    for length in shape:
        count *= length
    return count


def samples():
    """Every dtype and awkward shapes: name -> (dtype, shape, bytes)."""
    source = random.Random(1)
    made = {}
    for dtype in DESCR:
        for shape in [(), (1,), (0,), (3, 4), (2, 0, 5), (1, 2, 3, 4, 5, 2), (7000,)]:
            name = f"{dtype}/layer {len(shape)}/{'x'.join(map(str, shape))}"
            made[name] = (dtype, shape, source.randbytes(elements(shape) * SIZE[dtype]))
    return made


def npy(dtype, shape, data, version=1):
    header = repr({"descr": DESCR[dtype], "fortran_order": False, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def read_npy(raw):
    assert raw[:8] == b"\x93NUMPY\x01\x00", raw[:8]
    (length,) = struct.unpack("<H", raw[8:10])
    header = ast.literal_eval(raw[10 : 10 + length].decode())
    assert not header["fortran_order"] and (10 + length) % 64 == 0
    dtype = next(name for name, descr in DESCR.items() if descr == header["descr"])
    return dtype, header["shape"], raw[10 + length :]


def safetensors_bytes(tensors, metadata=None):
    header = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": TORCH[dtype], "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def read_safetensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            dtype = next(ours for ours, theirs in TORCH.items() if theirs == entry["dtype"])
            found[name] = (dtype, tuple(entry["shape"]), data[begin:end])
    return found, header.get("__metadata__")


class Files(unittest.TestCase):
    program = None

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="vitrail-python-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_program(self, *words, code=0):
        done = subprocess.run([self.program, *map(str, words)], capture_output=True, text=True, timeout=500)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def expect_shown(self, path, tensors):
        lines = sorted(self.run_program("show", path).splitlines())
        wanted = [f"{name} {dtype} [{', '.join(map(str, shape))}] {hashlib.sha256(data).hexdigest()}"
                  for name, (dtype, shape, data) in tensors.items()]
        self.assertEqual(lines, sorted(wanted))

    def write_npz(self, path, tensors, compression=zipfile.ZIP_STORED, version=1):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, (dtype, shape, data) in tensors.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:  # as numpy.savez does
                    entry.write(npy(dtype, shape, data, version))

    def test_what_python_writes_is_read(self):
        tensors = samples()
        for version in (1, 2, 3):
            for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                self.write_npz(self.folder / "a.npz", tensors, compression, version)
                self.expect_shown(self.folder / "a.npz", tensors)
        (self.folder / "a.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
        self.expect_shown(self.folder / "a.safetensors", tensors)

    def test_archives_written_to_a_pipe_are_read(self):
        """Their sizes stand behind the data."""
        tensors = {name: one for name, one in samples().items() if len(one[2]) < 1000}
        path = self.folder / "a.npz"
        with open(path, "wb") as file:
            pipe = type("Pipe", (), {"write": file.write, "flush": file.flush})()
            with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, (dtype, shape, data) in tensors.items():
                    archive.writestr(f"{name}.npy", npy(dtype, shape, data))
        self.expect_shown(path, tensors)

    def test_what_we_write_is_read_by_python(self):
        tensors = samples()
        self.write_npz(self.folder / "a.npz", tensors)
        self.run_program("copy", self.folder / "a.npz", self.folder / "b.npz")
        with zipfile.ZipFile(self.folder / "b.npz") as archive:
            self.assertIsNone(archive.testzip())
            self.assertEqual(archive.namelist(), [f"{name}.npy" for name in tensors])
            for name, wanted in tensors.items():
                self.assertEqual(read_npy(archive.read(f"{name}.npy")), wanted)
        self.run_program("copy", self.folder / "b.npz", self.folder / "c.safetensors", 77)
        index = json.loads((self.folder / "c.safetensors.index.json").read_text())
        found = {}
        for file in sorted(set(index["weight_map"].values())):
            part, metadata = read_safetensors(self.folder / file)
            self.assertEqual(metadata, {"format": "pt"})
            self.assertTrue(all(index["weight_map"][name] == file for name in part))
            found.update(part)
        self.assertEqual(found, tensors)
        self.assertEqual(index["metadata"]["total_size"], sum(len(data) for _, _, data in tensors.values()))
        self.run_program("copy", self.folder / "c.safetensors", self.folder / "d.npz", 1)
        self.expect_shown(self.folder / "d.npz", tensors)

    def test_damage_ends_with_one_line(self):
        tensors = samples()
        self.write_npz(self.folder / "a.npz", tensors)
        whole = (self.folder / "a.npz").read_bytes()
        (self.folder / "a.npz").write_bytes(whole[: len(whole) // 2])
        self.assertEqual(self.run_program("show", self.folder / "a.npz", code=CHECKPOINT).count("\n"), 1)
        (self.folder / "a.safetensors").write_bytes(safetensors_bytes(tensors)[:-1])
        self.assertEqual(self.run_program("show", self.folder / "a.safetensors", code=CHECKPOINT).count("\n"), 1)

    def test_numpy(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("NumPy is not installed")
        tensors = samples()
        arrays = {name: numpy.frombuffer(data, numpy.dtype(DESCR[dtype])).reshape(shape)
                  for name, (dtype, shape, data) in tensors.items()}
        for save in (numpy.savez, numpy.savez_compressed):
            save(self.folder / "a.npz", **arrays)
            self.expect_shown(self.folder / "a.npz", tensors)
        self.run_program("copy", self.folder / "a.npz", self.folder / "b.npz")
        with numpy.load(self.folder / "b.npz", allow_pickle=False) as loaded:
            self.assertEqual(loaded.files, list(arrays))
            for name, array in arrays.items():
                self.assertEqual(loaded[name].dtype, array.dtype)
                self.assertEqual(loaded[name].shape, array.shape)
                self.assertEqual(loaded[name].tobytes(), array.tobytes())
        numpy.savez(self.folder / "f.npz", kernel=numpy.asfortranarray(numpy.ones((3, 4), "f4")))
        self.assertIn("tensor 'kernel'", self.run_program("show", self.folder / "f.npz", code=CHECKPOINT))
        halves = numpy.arange(65536, dtype="u2").view("f2")
        halves = halves[~numpy.isnan(halves)]
        numpy.savez(self.folder / "h.npz", x=halves)
        self.expect_shown(self.folder / "h.npz", {"x": ("f32", halves.shape, halves.astype("f4").tobytes())})
        try:
            import ml_dtypes
        except ImportError:
            self.skipTest("ml_dtypes is not installed: no bfloat16 of its own in NumPy")
        values = numpy.linspace(-3, 3, 50).astype(ml_dtypes.bfloat16)
        numpy.savez(self.folder / "v.npz", x=values)
        self.expect_shown(self.folder / "v.npz", {"x": ("bf16", values.shape, values.tobytes())})
        self.run_program("copy", self.folder / "v.npz", self.folder / "w.npz")
        self.assertTrue((numpy.load(self.folder / "w.npz")["x"].view(ml_dtypes.bfloat16) == values).all())

    def test_safetensors(self):
        try:
            import numpy
            import safetensors.numpy
        except ImportError:
            self.skipTest("NumPy or safetensors is not installed")
        tensors = {name: one for name, one in samples().items() if one[0] != "bf16"}
        arrays = {name: numpy.frombuffer(data, numpy.dtype(DESCR[dtype])).reshape(shape)
                  for name, (dtype, shape, data) in tensors.items()}
        safetensors.numpy.save_file(arrays, self.folder / "a.safetensors", {"format": "np"})
        self.expect_shown(self.folder / "a.safetensors", tensors)
        halves = {"half": numpy.linspace(-5, 5, 12, dtype="f2").reshape(3, 4), "scalar": numpy.array(0.1, "f2")}
        safetensors.numpy.save_file(halves, self.folder / "h.safetensors")
        self.expect_shown(self.folder / "h.safetensors",
                          {name: ("f32", half.shape, half.astype("f4").tobytes()) for name, half in halves.items()})
        small = dict(list(tensors.items())[:5])
        self.write_npz(self.folder / "b.npz", small)
        self.run_program("copy", self.folder / "b.npz", self.folder / "b.safetensors")
        loaded = safetensors.numpy.load_file(self.folder / "b.safetensors")
        self.assertEqual(set(loaded), set(small))
        for name in small:
            self.assertEqual((loaded[name].dtype, loaded[name].shape), (arrays[name].dtype, arrays[name].shape))
            self.assertEqual(loaded[name].tobytes(), arrays[name].tobytes())
        self.write_npz(self.folder / "c.npz", samples())
        self.run_program("copy", self.folder / "c.npz", self.folder / "c.safetensors")
        for file in self.folder.glob("c-*.safetensors"):
            with safetensors.safe_open(file, "np") as opened:
                self.assertEqual(opened.metadata(), {"format": "pt"})
                self.assertGreater(len(opened.keys()), 0)


class Large(Files):
    def test_an_array_of_more_than_4_gib(self):
        if shutil.disk_usage(self.folder).free < 10 << 30:
            self.skipTest("not enough room on the disk")
        path = self.folder / "large.npz"
        self.run_program("large", path)
        with zipfile.ZipFile(path) as archive:
            self.assertGreater(archive.getinfo("large.npy").file_size, 1 << 32)
            self.assertEqual(archive.read("small.npy")[-3:], b"\0\1\2")
            self.assertIsNone(archive.testzip())


if __name__ == "__main__":
    Files.program = sys.argv[1]
    if sys.argv[2:] == ["--large"]:
        unittest.main(argv=sys.argv[:1] + ["Large.test_an_array_of_more_than_4_gib"])
    unittest.main(argv=sys.argv[:1] + ["Files"])

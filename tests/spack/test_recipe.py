"""Runs package.py with stand-ins for Spack, and compares what it hands to CMake with what CMakeLists.txt knows.

What this cannot prove (there is no Spack here): that Spack concretizes, builds and audits the recipe.
"""

import os
import py_compile
import re
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))
import stand_ins  # noqa: E402

RECIPE = ROOT / "package.py"
REPOSITORY = ROOT / ".spack/spack_repo/vitrail"

# What each package of CMakeLists.txt is called by Spack; None: comes with the compiler.
SPACK_NAME = {
    "MPI": "mpi",
    "CUDAToolkit": "cuda",
    "nccl": "nccl",
    "HDF5": "hdf5",
    "ZLIB": "zlib-api",
    "OpenSSL": "openssl",
    "nlohmann_json": "nlohmann-json",
    "Boost": "boost",
    "dnnl": "onednn",
    "Eigen3": "eigen",
    "PkgConfig": "pkgconfig",
    "libhwy": "highway",
    "libhwy-contrib": "highway",
    "libzip": "libzip",
    "msgpack.hpp": "msgpack-c",
    "GTest": "googletest",
    "Python3": "python",
    "OpenMP": None,
    "Threads": None,
}


CMAKE_FILES = ("CMakeLists.txt", "tests/CMakeLists.txt", "src/device/cuda/cuda.cmake")


def cmake_text():
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in CMAKE_FILES)


def options_of_cmake():
    return set(re.findall(r"^\s*option\((\w+)", cmake_text(), re.MULTILINE))


def packages_of_cmake():
    found = set(re.findall(r"find_package\((\w+)", cmake_text()))
    found |= set(re.findall(r"find_library\(NCCL_LIBRARY (\w+)", cmake_text()))
    found |= set(re.findall(r"find_path\(MSGPACK_INCLUDE_DIR (\S+)", cmake_text()))
    for modules in re.findall(r"pkg_check_modules\(\w+ ([^)]*)\)", cmake_text()):
        found |= set(modules.split()) - {"REQUIRED", "IMPORTED_TARGET", "QUIET"}
    return found


class Recipe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.module, cls.recorded = stand_ins.load(RECIPE, programs=["/p/bin/vitrail-train"])
        cls.package = cls.module.Vitrail

    def values(self, directive):
        return [(arguments, keywords) for name, arguments, keywords in self.recorded if name == directive]

    def defines(self, run_tests, **changed):
        variants = {arguments[0]: keywords["default"] for arguments, keywords in self.values("variant")}
        variants.update(cuda=False)
        variants.update(changed)
        arguments = self.package(variants, run_tests).cmake_args()
        return dict(re.fullmatch(r"-D(\w+):\w+=(.*)", argument).groups() for argument in arguments)

    def test_compiles_as_python(self):
        with tempfile.TemporaryDirectory() as folder:
            py_compile.compile(str(RECIPE), cfile=os.path.join(folder, "recipe.pyc"), doraise=True)

    def test_lines_are_as_short_as_spack_wants_them(self):
        for number, line in enumerate(RECIPE.read_text(encoding="utf-8").splitlines(), 1):
            self.assertLessEqual(len(line), 99, f"package.py:{number}")
            self.assertEqual(line, line.rstrip(), f"package.py:{number}")

    def test_every_define_is_an_option_of_cmake(self):
        for run_tests in (False, True):
            for name in self.defines(run_tests):
                self.assertIn(name, options_of_cmake())

    def test_gpus_and_ranks_follow_their_variants(self):
        plain = self.defines(False)
        self.assertEqual((plain["VITRAIL_CUDA"], plain["VITRAIL_MPI"]), ("OFF", "ON"))
        self.assertNotIn("CMAKE_CUDA_ARCHITECTURES", plain)
        gpu = self.defines(False, cuda=True, cuda_arch=("80", "90"), mpi=False)
        self.assertEqual((gpu["VITRAIL_CUDA"], gpu["VITRAIL_MPI"]), ("ON", "OFF"))
        self.assertEqual(gpu["CMAKE_CUDA_ARCHITECTURES"], "80;90")

    def test_every_gpu_has_its_nccl_or_is_refused(self):
        refused = {a[0] for a, k in self.values("conflicts") if k.get("when") == "+cuda"}
        self.assertIn("cuda_arch=none", refused)
        self.assertIn("cuda_arch=70", refused)
        self.assertNotIn("cuda_arch=90", refused)
        nccl = {k["when"]: a[0] for a, k in self.values("depends_on") if a[0].startswith("nccl")}
        self.assertEqual(nccl["+cuda cuda_arch=90"], "nccl +cuda cuda_arch=90")
        self.assertIn((("mpi",), {"when": "+mpi"}), self.values("depends_on"))

    def test_tests_are_built_only_when_spack_runs_them(self):
        self.assertEqual(self.defines(run_tests=False)["BUILD_TESTING"], "OFF")
        self.assertEqual(self.defines(run_tests=True)["BUILD_TESTING"], "ON")

    def test_assertions_follow_their_variant(self):
        self.assertEqual(self.defines(False)["VITRAIL_ASSERTIONS"], "OFF")
        self.assertEqual(self.defines(False, assertions=True)["VITRAIL_ASSERTIONS"], "ON")

    def test_depends_on_every_package_that_cmake_looks_for_and_no_other(self):
        wanted = set()
        for name in packages_of_cmake():
            self.assertIn(name, SPACK_NAME, "a package of CMake's without a Spack name in this test")
            wanted.add(SPACK_NAME[name])
        wanted.discard(None)
        declared = {re.match(r"[\w-]+", arguments[0]).group() for arguments, _ in self.values("depends_on")}
        self.assertEqual(declared - {"c", "cxx", "cmake"}, wanted)

    def test_asks_for_the_cmake_that_cmakelists_asks_for(self):
        minimum = re.search(r"cmake_minimum_required\(VERSION ([\d.]+)", cmake_text()).group(1)
        self.assertIn(((f"cmake@{minimum}:",), {"type": "build"}), self.values("depends_on"))

    def test_dependency_types_are_spacks(self):
        for arguments, keywords in self.values("depends_on"):
            types = keywords.get("type", ())
            types = {types} if isinstance(types, str) else set(types)
            self.assertLessEqual(types, stand_ins.DEPENDENCY_TYPES, arguments)

    def test_carries_the_licence_of_the_repository(self):
        self.assertEqual([arguments[0] for arguments, _ in self.values("license")], ["Apache-2.0"])
        self.assertIn("Apache License", (ROOT / "LICENSE").read_text(encoding="utf-8"))

    def test_class_is_documented_and_named_as_spack_wants(self):
        self.assertTrue(self.package.__doc__)
        self.assertLessEqual({base.__name__ for base in self.package.__bases__}, {"CMakePackage", "CudaPackage"})

    def test_builds_the_repository_that_it_lies_in(self):
        through_link, _ = stand_ins.load(REPOSITORY / "packages/vitrail/package.py")
        for module in (self.module, through_link):
            self.assertEqual(module.Vitrail.git, f"file://{ROOT}")

    def test_stand_alone_test_runs_every_program_and_fails_without(self):
        package = self.package({})
        package.prefix = type("Prefix", (), {"bin": "/p/bin"})
        stand_ins.Executable.called.clear()
        package.test_help()
        self.assertEqual(stand_ins.Executable.called, [("/p/bin/vitrail-train", "--help")])
        module, _ = stand_ins.load(RECIPE, programs=[])
        package = module.Vitrail({})
        package.prefix = type("Prefix", (), {"bin": "/p/bin"})
        with self.assertRaises(RuntimeError):
            package.test_help()


class SpackRepository(unittest.TestCase):
    def test_the_link_leads_to_the_recipe(self):
        link = REPOSITORY / "packages/vitrail/package.py"
        self.assertTrue(link.is_symlink())
        self.assertFalse(Path(os.readlink(link)).is_absolute())
        self.assertTrue(link.samefile(RECIPE))

    def test_the_namespace_and_the_interface_version_are_declared(self):
        lines = (REPOSITORY / "repo.yaml").read_text(encoding="utf-8").split()
        self.assertEqual(lines, ["repo:", "namespace:", "vitrail", "api:", "v2.2"])

    def test_the_index_leads_to_the_repository(self):
        words = (ROOT / "spack-repo-index.yaml").read_text(encoding="utf-8").split()
        self.assertEqual(words, ["repo_index:", "paths:", "-", REPOSITORY.relative_to(ROOT).as_posix()])


if __name__ == "__main__":
    unittest.main()

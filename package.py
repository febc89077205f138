# Spack's recipe for Vitrail. Spack finds it through .spack/spack_repo/vitrail (a link leads here):
#     spack repo add .spack/spack_repo/vitrail      (in a checkout; a Git URL works too)
#     spack install vitrail
# It builds what the checkout holding this recipe has on its branch main.
# tests/spack runs this recipe with stand-ins for Spack and compares it with CMakeLists.txt.

import os

from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import *


class Vitrail(CMakePackage, CudaPackage):
    """Vitrail pretrains sparse vision transformers (V-MoE) on clusters: experts spread over MPI
    ranks, HDF5 shards in, HDF5 checkpoints out, results that are the same bits on any number of
    ranks."""

    # The recipe lives in the repository that it builds: realpath follows Spack's link to it.
    git = "file://" + os.path.dirname(os.path.realpath(__file__))

    license("Apache-2.0")

    version("main", branch="main")

    variant("assertions", default=False, description="Check Vitrail's invariants while it runs")
    variant("nccl", default=False, description="Collectives between GPUs through NCCL")

    # The variants stand here so that a site's specs need not change when the code comes.
    conflicts("+cuda", msg="Vitrail's CUDA back end is not built yet: install with ~cuda")
    conflicts("+nccl", msg="Vitrail's NCCL communicator is not built yet: install with ~nccl")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi")
    depends_on("hdf5@1.10:")
    depends_on("boost@1.74: +program_options")
    depends_on("eigen@3.4:3")
    depends_on("onednn@2.6: cpu_runtime=omp")
    depends_on("highway@1.0.3:")
    depends_on("nlohmann-json@3.11:")
    depends_on("openssl@3:")
    depends_on("zlib-api")

    depends_on("googletest@1.12:", type="test")
    depends_on("python@3.9:", type="test")

    conflicts("%gcc@:11", msg="Vitrail is C++20 and needs GCC 12 or later")

    def cmake_args(self):
        return [
            self.define("BUILD_TESTING", self.run_tests),
            self.define_from_variant("VITRAIL_ASSERTIONS", "assertions"),
        ]

    def test_help(self):
        """every installed program explains itself"""
        programs = find(self.prefix.bin, "vitrail-*")
        if not programs:
            raise RuntimeError("no program is installed in " + self.prefix.bin)
        for program in programs:
            Executable(program)("--help")

# Spack's recipe for Vitrail. Spack finds it through .spack/spack_repo/vitrail (a link leads here):
#     spack repo add .spack/spack_repo/vitrail      (in a checkout; a Git URL works too)
#     spack install vitrail
# It builds what the checkout holding this recipe has on its branch main.
# tests/spack runs this recipe with stand-ins for Spack and compares it with CMakeLists.txt.

import os

from spack_repo.builtin.build_systems.cmake import CMakeBuilder, CMakePackage
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
    variant("mpi", default=True, description="Several ranks; without, every program is one rank")

    conflicts("cuda_arch=none", when="+cuda", msg="Name the GPUs, as in cuda_arch=90")
    for arch in CudaPackage.cuda_arch_values:
        if int(arch.rstrip("af")) < 80:
            conflicts(f"cuda_arch={arch}", when="+cuda", msg="Needs cuda_arch=80 or later")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi", when="+mpi")
    depends_on("cuda@12.4:", when="+cuda")
    for arch in CudaPackage.cuda_arch_values:
        depends_on(f"nccl +cuda cuda_arch={arch}", when=f"+cuda cuda_arch={arch}")
    depends_on("hdf5@1.10:")
    depends_on("boost@1.74: +program_options")
    depends_on("eigen@3.4:3")
    depends_on("onednn@2.6: cpu_runtime=omp")
    depends_on("highway@1.0.3:")
    depends_on("libzip@1.7:")
    depends_on("msgpack-c@3.1:")
    depends_on("nlohmann-json@3.11:")
    depends_on("openssl@3:")
    depends_on("zlib-api")

    depends_on("boost +context", type="test")
    depends_on("googletest@1.12:", type="test")
    depends_on("python@3.9:", type="test")

    conflicts("%gcc@:11", msg="Vitrail is C++20 and needs GCC 12 or later")

    def cmake_args(self):
        arguments = [
            self.define("BUILD_TESTING", self.run_tests),
            self.define_from_variant("VITRAIL_ASSERTIONS", "assertions"),
            self.define_from_variant("VITRAIL_CUDA", "cuda"),
            self.define_from_variant("VITRAIL_MPI", "mpi"),
        ]
        if self.spec.satisfies("+cuda"):
            arguments.append(CMakeBuilder.define_cuda_architectures(self))
        return arguments

    def test_help(self):
        """every installed program explains itself"""
        programs = find(self.prefix.bin, "vitrail-*")
        if not programs:
            raise RuntimeError("no program is installed in " + self.prefix.bin)
        for program in programs:
            Executable(program)("--help")

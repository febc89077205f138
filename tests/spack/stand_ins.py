"""Stand-ins for the parts of Spack that our recipe uses, so that it can be run where there is no Spack.

load(path) runs a recipe and gives its class. Directives are recorded in `recorded` as (name, arguments, keywords).
A directive or name that Spack does not have is a NameError here too: only what is listed below exists.
"""

import importlib.util
import sys
import types

DIRECTIVES = "conflicts depends_on license maintainers patch provides requires variant version".split()
DEPENDENCY_TYPES = {"build", "link", "run", "test"}


class Spec:
    """The part of a concrete spec that the recipe asks: one variant, on or off."""

    def __init__(self, variants):
        self.variants = variants

    def satisfies(self, constraint):
        assert constraint[0] in "+~", constraint
        return bool(self.variants[constraint[1:]]) == (constraint[0] == "+")


class CMakeBuilder:
    """spack_repo.builtin.build_systems.cmake.CMakeBuilder: what packages call without an instance."""

    @staticmethod
    def define_cuda_architectures(package):
        return package.define("CMAKE_CUDA_ARCHITECTURES", ";".join(package.spec.variants["cuda_arch"]))


class CMakePackage:
    """spack_repo.builtin.build_systems.cmake.CMakePackage, with chosen variants and the two ways to define."""

    def __init__(self, variants, run_tests=False):
        self.variants = variants
        self.run_tests = run_tests
        self.spec = Spec(variants)

    def define(self, name, value):
        kind = "BOOL" if isinstance(value, bool) else "STRING"
        text = ("ON" if value else "OFF") if isinstance(value, bool) else str(value)
        return f"-D{name}:{kind}={text}"

    def define_from_variant(self, name, variant=None):
        return self.define(name, self.variants[variant or name.lower()])


class CudaPackage:
    """spack_repo.builtin.build_systems.cuda.CudaPackage: brings the variants cuda and cuda_arch."""

    cuda_arch_values = ("70", "80", "90", "100")


class Executable:
    called = []

    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments):
        Executable.called.append((self.path, *arguments))


def load(path, programs=()):
    """(class, recorded directives) of the recipe at `path`; find() finds `programs`."""
    recorded = []
    spack = types.ModuleType("spack")
    package = types.ModuleType("spack.package")
    for name in DIRECTIVES:
        setattr(package, name, lambda *a, _name=name, **k: recorded.append((_name, a, k)))
    package.find = lambda folder, pattern: list(programs)
    package.Executable = Executable
    cmake = types.ModuleType("spack_repo.builtin.build_systems.cmake")
    cmake.CMakeBuilder = CMakeBuilder
    cmake.CMakePackage = CMakePackage
    cuda = types.ModuleType("spack_repo.builtin.build_systems.cuda")
    cuda.CudaPackage = CudaPackage
    stand_ins = {"spack": spack, "spack.package": package, cmake.__name__: cmake, cuda.__name__: cuda}
    for parent in ("spack_repo", "spack_repo.builtin", "spack_repo.builtin.build_systems"):
        stand_ins[parent] = types.ModuleType(parent)
    kept = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        spec = importlib.util.spec_from_file_location("recipe", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, module_before in kept.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
    return module, recorded

#!/bin/bash
# Installs what the tests need, builds, and runs every test. The closing lines are CTest's.
#
#   tests/run.sh            everything but the tests labelled long: under an hour on 2 cores
#   tests/run.sh --long     those too, and clang-tidy over every file
#
# In this order, and the first failure ends it: packages, format, floors, clang-tidy on what changed, the builds
# (dev: all; release: the programs; sanitize: the unit tests of the rooms named below and of the emulated GPU; cuda,
# where nvcc is there: programs and the tests for a GPU), the unit tests under the address and undefined-behaviour
# sanitizers, then all tests of the dev build (on a throw-away Slurm too, where root may make namespaces). Tests for
# a GPU run where there is one; tests/run_on_gpu.sh does more.
# Folders: build/dev, build/release, build/sanitize, build/cuda; what is built already is kept. ccache is used where it
# is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

sanitized_rooms="base device io ops data convert model"
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
not_labelled=(-LE '^long$')
tidy_what=()
case "${1:-}" in
  "") ;;
  --long) not_labelled=(); tidy_what=(--all) ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

jobs_at_once=$(nproc)
# mpirun refuses to run as root without these two; the tests start no program of anybody else's.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_WAIT_POLICY=passive # several tests at once share the cores
if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
fi

times=()
# step NAME COMMAND...: runs it, keeps its time, and says which step failed.
step() {
  local name=$1 start=$SECONDS
  shift
  echo "=== $name"
  "$@" || {
    echo "tests/run.sh: $name failed" >&2
    exit 1
  }
  times+=("$(printf '%-32s %5d s' "$name" $((SECONDS - start)))")
}

configure() { cmake --preset "$1" --log-level=WARNING "${@:2}"; }
# A build folder that is there keeps its settings.
configure_release() { [ -f build/release/CMakeCache.txt ] || configure release -DBUILD_TESTING=OFF; }
build() { cmake --build "build/$1" --parallel "$jobs_at_once" "${@:2}"; }
run_ctest() { ctest --test-dir "build/$1" --no-tests=error --output-on-failure --parallel "$jobs_at_once" "${@:2}"; }

sanitized_targets=()
for room in $sanitized_rooms; do
  if compgen -G "tests/$room/test_*.cpp" >/dev/null; then sanitized_targets+=("test_$room"); fi
done
sanitized_targets+=(test_emulated test_cuda_emulated)

step "packages" jobs/install_dependencies.sh test
step "format" tests/check_format.sh
step "floors" python3 -B tests/check_floors.py
step "configure dev" configure dev
step "clang-tidy" python3 -B tests/check_tidy.py "${tidy_what[@]}"
step "build dev" build dev
step "configure release" configure_release
step "build release" build release
step "configure sanitize" configure sanitize
step "build sanitize" build sanitize --target "${sanitized_targets[@]}"
# Only what was built: the label leaves out the placeholders of the test programs that were not.
step "unit tests under sanitizers" run_ctest sanitize -L '^unit$' "${not_labelled[@]}"
if command -v nvcc >/dev/null; then
  step "configure cuda" configure cuda
  step "build cuda" build cuda --target vitrail-train vitrail-eval vitrail-selftest vitrail-bench test_cuda
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
    step "tests on a GPU" run_ctest cuda -L '^gpu$'
    cuda_said="cuda: compiled; tests on a GPU passed"
  else
    cuda_said="cuda: compiled; 0 gpu tests (no GPU)"
  fi
else
  cuda_said="cuda: not compiled (no nvcc); 0 gpu tests"
fi

slurm_can=$(tests/slurm/start_slurm.sh --can) || true

echo "=== time of each step"
printf '%s\n' "${times[@]}"
echo "=== $cuda_said"
echo "=== tests on a throw-away Slurm (netns or shared: how its nodes are connected): $slurm_can"
echo "=== all tests of the dev build"
exec ctest --test-dir build/dev --no-tests=error --output-on-failure --parallel "$jobs_at_once" "${not_labelled[@]}"

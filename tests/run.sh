#!/bin/bash
# Installs what the tests need, builds, and runs every test. The closing lines are CTest's.
#
#   tests/run.sh            everything but the tests labelled long, from a checkout in which nothing is built
#   tests/run.sh --long     those too, and clang-tidy over every file
#
# In this order, and the first failure ends it: packages, format, floors, clang-tidy on what changed, the builds, the unit
# tests of the sanitized build, all other tests of the dev build (on a throw-away Slurm too, where root may make
# namespaces). Tests for a GPU run where there is one; tests/run_on_gpu.sh does more.
# No case runs twice but some of the verbs': sanitized (address and undefined behaviour) are the unit tests of the
# rooms that tests/CMakeLists.txt names and a part of the emulated GPU's. A Release build is that of the preset cuda,
# where nvcc is there (the rooms and the tests for a GPU), else that of the preset release.
# Folders: build/dev, build/sanitize, build/cuda or build/release; what is built already is kept. ccache is used where it
# is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
left_out='^(long|sanitized_unit)$'
sanitized='^sanitized_unit$'
tidy_what=()
case "${1:-}" in
  "") ;;
  --long) left_out='^sanitized_unit$'; sanitized='^sanitized_'; tidy_what=(--all) ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

jobs_at_once=$(nproc)
# mpirun refuses to run as root without these two; the tests start no program of anybody else's.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_WAIT_POLICY=passive # several tests at once share the cores
if command -v ccache >/dev/null; then
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
  export CCACHE_SLOPPINESS=pch_defines,time_macros # what it asks for to keep files with precompiled headers
fi

times=()
# CPU time of all that ended so far, in hundredths of a second.
cpu_used() { read -ra stat </proc/$$/stat && cpu=$((stat[15] + stat[16])); }
# step NAME COMMAND...: runs it, keeps its time, and says which step failed.
step() {
  local name=$1 start=$SECONDS code=0
  cpu_used
  local cpu_before=$cpu
  shift
  echo "=== $name"
  "$@" || code=$?
  cpu_used
  times+=("$(printf '%-40s %5d s, %5d s of CPU' "$name" $((SECONDS - start)) $(((cpu - cpu_before) / 100)))")
  [ $code = 0 ] || {
    echo "tests/run.sh: $name failed" >&2
    exit $code
  }
}
# The last words: the times, and CTest's closing lines.
last_tests=$PWD/build/last_tests.log
rm -f "$last_tests"
finish() {
  [ ${#times[@]} = 0 ] || printf '%s\n' "=== time of each step" "${times[@]}"
  [ ! -f "$last_tests" ] || sed -n '/^[0-9]*% tests passed/,$p' "$last_tests"
}
trap finish EXIT

configure() { cmake --preset "$1" --log-level=WARNING "${@:2}"; }
# A build folder that is there keeps its settings.
configure_release() { [ -f build/release/CMakeCache.txt ] || configure release -DBUILD_TESTING=OFF; }
build() { cmake --build "build/$1" --parallel "$jobs_at_once" "${@:2}"; }
run_ctest() { ctest --test-dir "build/$1" --no-tests=error --output-on-failure --parallel "$jobs_at_once" "${@:2}"; }

step "packages" jobs/install_dependencies.sh test
step "format" tests/check_format.sh
step "floors" python3 -B tests/check_floors.py
step "configure dev" configure dev
step "clang-tidy" python3 -B tests/check_tidy.py "${tidy_what[@]}"
step "build dev" build dev --target all_but_sanitized
step "configure sanitize" configure sanitize
step "build sanitize" build sanitize --target sanitized
if command -v nvcc >/dev/null; then
  step "configure cuda" configure cuda
  step "build cuda" build cuda --target test_cuda ranks_comm
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
    step "tests on a GPU" run_ctest cuda -L '^gpu$'
    cuda_said="cuda: compiled; tests on a GPU passed"
  else
    cuda_said="cuda: compiled; 0 gpu tests (no GPU)"
  fi
else
  step "configure release" configure_release
  step "build release" build release
  cuda_said="cuda: not compiled (no nvcc); 0 gpu tests"
fi

step "unit tests under sanitizers" run_ctest sanitize -L "$sanitized"

slurm_can=$(tests/slurm/start_slurm.sh --can) || true
echo "=== $cuda_said"
echo "=== tests on a throw-away Slurm (netns or shared: how its nodes are connected): $slurm_can"
# The placeholders are those of unit tests that were built with the sanitizers alone.
step "all other tests" run_ctest dev -LE "$left_out" -E '_NOT_BUILT$' --output-log "$last_tests"

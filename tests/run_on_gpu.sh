#!/bin/bash
# Everything that wants a GPU, in one go: tests, golden files, layouts, compute-sanitizer, benchmarks. Needs no network.
#
#   tests/run_on_gpu.sh [DIR] [--build BUILD] [--only PART ...]
#   tests/run_on_gpu.sh --prepare DIR       on a machine without a GPU: a build to carry, DIR/vitrail-gpu.tar.xz
#
# DIR (default: $OUT, else gpu-report) receives log.txt (what every part said, and its exit code), results.jsonl (the
# JSON of every part, and a line per part), table.txt (the verdicts) and parts.tar.gz (the files of every part).
#
# BUILD is a folder that --prepare made or that its archive was unpacked to, or a build folder of CMake. Without it, this
# script looks for vitrail-gpu.tar.xz beside itself and in the checkout (carried/, gpu/), and else builds
# (preset cuda, in build/cuda; without MPI where there is none).
# What is missing (a GPU, nvcc, MPI, NCCL, compute-sanitizer, PyTorch, libraries to build with) is named, and what can be
# done without it is done. All ends within VITRAIL_GPU_SECONDS (540) seconds.
#
# VITRAIL_PEERS: a folder with torch_vmoe.py, the same model in PyTorch, for the parts torch and torch-compiled.
#
# Parts: gpu-tests golden-f32 golden-bf16 step-s32 step-b16 step-l16 step-15b torch torch-compiled gemm layouts nccl
# memcheck racecheck.
# Exit codes: 0 all parts passed or were skipped for a reason; 1 a part failed; 2 nothing could be run: no GPU, or no
# programs; the table says why.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
total_s=${VITRAIL_GPU_SECONDS:-540}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
left_s() { echo $((total_s - SECONDS)); }

report=${OUT:-gpu-report}
build=
only=()
prepare=
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --build) build=${2:?--build needs a folder}; shift 2 ;;
    --prepare) prepare=${2:?--prepare needs a folder}; shift 2 ;;
    --only)
      shift
      while [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; do only+=("$1"); shift; done
      ;;
    --*) usage >&2; exit 2 ;;
    *) report=$1; shift ;;
  esac
done

# --- a build to carry ------------------------------------------------------------------------------------------------

# Libraries that come with the system or with CUDA, and are found there.
stays_behind='/(ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libutil|libstdc\+\+|libgcc_s|libcuda|libcublasLt|libnccl)[-.0-9]*\.so'

carry_libraries() { # of these files, into the folder $1
  local to=$1
  shift
  ldd "$@" 2>/dev/null | awk '$3 ~ /^\// {print $3}' | sort -u | grep -Ev "$stays_behind" | while read -r library; do
    [ -e "$to/$(basename "$library")" ] || cp -L "$library" "$to/"
  done
}

# Open MPI below openmpi/, as OPAL_PREFIX wants it: the same places below another prefix.
carry_open_mpi() {
  local to=$1 prefix component
  prefix=$(ompi_info --path prefix --parsable 2>/dev/null | sed -n 's/^path:prefix://p')
  [ -n "$prefix" ] || return 0
  local components data
  components=$(ompi_info --path pkglibdir --parsable | sed -n 's/^path:pkglibdir://p')
  data=$(ompi_info --path pkgdatadir --parsable | sed -n 's/^path:pkgdatadir://p')
  mkdir -p "$to/openmpi/bin" "$to/openmpi/${components#"$prefix"/}" "$to/openmpi/${data#"$prefix"/}"
  cp -L "$(command -v mpirun)" "$to/openmpi/bin/mpirun"
  cp -L "$(command -v orted)" "$to/openmpi/bin/orted"
  # Those for networks and batch systems want libraries of theirs, and one machine has no use for them.
  for component in "$components"/mca_*.so; do
    ldd "$component" 2>/dev/null | grep -qE 'not found|libfabric|libuc[pst]|libpsm|libibverbs|libnuma|slurm' ||
      cp -L "$component" "$to/openmpi/${components#"$prefix"/}/"
  done
  cp -rL "$data"/. "$to/openmpi/${data#"$prefix"/}/"
  carry_libraries "$to/lib" "$to/openmpi/bin/mpirun" "$to/openmpi/bin/orted" \
    "$to/openmpi/${components#"$prefix"/}"/*.so
  local pmix=/usr/lib/$(uname -m)-linux-gnu/pmix2
  [ ! -d "$pmix" ] || { mkdir -p "$to/openmpi/pmix2" && cp -rL "$pmix/." "$to/openmpi/pmix2/"; }
}

prepare_build() {
  local to=$1 folder=$1/vitrail-gpu jobs
  set -e
  command -v nvcc >/dev/null || {
    echo "error: nvcc is missing, so nothing can be compiled for a GPU here" >&2
    exit 2
  }
  command -v xz >/dev/null || {
    echo "error: xz is missing, so nothing can be packed. Install xz-utils" >&2
    exit 2
  }
  cd "$root"
  jobs=$(nproc)
  if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
  fi
  rm -rf "$folder"
  mkdir -p "$folder/bin" "$folder/bin-mpi" "$folder/lib" "$folder/golden" "$folder/peers"
  local programs="vitrail-train vitrail-eval vitrail-selftest vitrail-bench"
  # One rank needs no MPI, and a broken MPI cannot break it.
  cmake --preset cuda -B build/cuda-carried --log-level=WARNING -DVITRAIL_MPI=OFF '-DCMAKE_BUILD_RPATH=$ORIGIN/../lib'
  # shellcheck disable=SC2086
  cmake --build build/cuda-carried --parallel "$jobs" --target $programs test_cuda
  for program in $programs; do strip -o "$folder/bin/$program" "build/cuda-carried/$program"; done
  strip -o "$folder/bin/test_cuda" build/cuda-carried/tests/test_cuda
  if command -v mpirun >/dev/null && command -v ompi_info >/dev/null; then
    cmake --preset cuda -B build/cuda-carried-mpi --log-level=WARNING -DVITRAIL_MPI=ON -DBUILD_TESTING=OFF \
      '-DCMAKE_BUILD_RPATH=$ORIGIN/../lib'
    cmake --build build/cuda-carried-mpi --parallel "$jobs" --target vitrail-train vitrail-selftest
    for program in vitrail-train vitrail-selftest; do
      strip -o "$folder/bin-mpi/$program" "build/cuda-carried-mpi/$program"
    done
    carry_open_mpi "$folder"
  fi
  carry_libraries "$folder/lib" "$folder"/bin/* "$folder"/bin-mpi/*
  cp tests/golden/*.h5 tests/golden/second/*.h5 "$folder/golden/"
  [ ! -f "${VITRAIL_PEERS:-}/torch_vmoe.py" ] || cp "$VITRAIL_PEERS"/*.py "$folder/peers/"
  git -C "$root" rev-parse HEAD >"$folder/commit" 2>/dev/null || true
  # Every program holds the same kernels: with a window wider than a program they are stored once.
  tar -C "$to" -cf - vitrail-gpu | xz --threads=1 --lzma2=preset=3,dict=256MiB >"$to/vitrail-gpu.tar.xz"
  local mebibytes=$(($(stat -c %s "$to/vitrail-gpu.tar.xz") / 1048576))
  echo "$to/vitrail-gpu.tar.xz: $mebibytes MiB; take it to the machine with the GPU, beside a checkout:"
  echo "  tests/run_on_gpu.sh --build $to"
  [ "$mebibytes" -lt 64 ] || { echo "error: 64 MiB or more" >&2; exit 1; }
}

if [ -n "$prepare" ]; then
  mkdir -p "$prepare"
  (prepare_build "$(cd "$prepare" && pwd)")
  exit $?
fi

# --- parts and their verdicts ----------------------------------------------------------------------------------------

mkdir -p "$report" || exit 2
report=$(cd "$report" && pwd)
parts=$(mktemp -d)
log=$report/log.txt
results=$report/results.jsonl
table=$report/table.txt
: >"$log" >"$results" >"$table"
names=()
declare -A pids=() verdicts=() whys=() times=()

say() { echo "$*" | tee -a "$log"; }
wanted() {
  [ ${#only[@]} = 0 ] && return 0
  local name
  for name in "${only[@]}"; do [ "$name" != "$1" ] || return 0; done
  return 1
}
skip() { # NAME WHY
  wanted "$1" || return 0
  names+=("$1")
  verdicts[$1]=skipped whys[$1]=$2 times[$1]=-
}
# start NAME LIMIT COMMAND...: in the background; finish collects what it said. A part whose time is up fails.
start() {
  local name=$1 limit=$2
  shift 2
  wanted "$name" || return 0
  if [ "$(left_s)" -lt 15 ]; then
    skip "$name" "no time left"
    return 0
  fi
  [ "$limit" -le $(($(left_s) - 10)) ] || limit=$(($(left_s) - 10))
  names+=("$name")
  (
    started=$SECONDS
    timeout --kill-after=5 "$limit" "$@" >"$parts/$name.txt" 2>&1 </dev/null
    code=$?
    echo "$code $((SECONDS - started)) $limit" >"$parts/$name.code"
  ) &
  pids[$name]=$!
}
finish() {
  local name code seconds limit
  for name in "$@"; do
    [ -n "${pids[$name]:-}" ] || continue
    wait "${pids[$name]}"
    unset "pids[$name]"
    read -r code seconds limit <"$parts/$name.code"
    verdicts[$name]=passed whys[$name]= times[$name]=$seconds
    if [ "$code" != 0 ]; then
      verdicts[$name]=failed
      whys[$name]="exit code $code"
      case "$code" in 124 | 137) whys[$name]="not done after $limit s" ;; esac
    fi
    say "=== $name: ${verdicts[$name]}, exit code $code, $seconds s"
    cat "$parts/$name.txt" >>"$log"
    grep -h '^{' "$parts/$name.txt" | sed "s/^{/{\"part\":\"$name\",/" >>"$results"
    printf '{"part":"%s","verdict":"%s","exit_code":%d,"seconds":%d}\n' "$name" "${verdicts[$name]}" "$code" "$seconds" \
      >>"$results"
  done
}
run() {
  start "$@"
  finish "$1"
}

end() { # EXIT_CODE
  local name failed=0
  {
    printf '%-16s %-8s %6s  %s\n' part verdict s why
    for name in "${names[@]}"; do
      printf '%-16s %-8s %6s  %s\n' "$name" "${verdicts[$name]:-failed}" "${times[$name]:--}" "${whys[$name]:-}"
      [ "${verdicts[$name]:-failed}" != failed ] || failed=1
    done
  } | tee "$table" | tee -a "$log"
  for name in "${names[@]}"; do [ "${verdicts[$name]:-failed}" != failed ] || failed=1; done
  tar -C "$parts" -czf "$report/parts.tar.gz" . 2>/dev/null
  rm -rf "$parts"
  echo "report: $report"
  [ "$1" = 0 ] || exit "$1"
  exit "$failed"
}
all_parts=(gpu-tests golden-f32 golden-bf16 step-s32 step-b16 step-l16 step-15b torch torch-compiled gemm layouts nccl
  memcheck racecheck)
skip_all() { # WHY
  local name
  for name in "${all_parts[@]}"; do skip "$name" "$1"; done
  end 2
}

# --- what is there ---------------------------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }
missing() { say "missing: $*"; }

say "vitrail on a GPU: $(date -u +%Y-%m-%dT%H:%M:%SZ), $(uname -srm), $(nproc) processors"
say "commit $(git -C "$root" rev-parse HEAD 2>/dev/null || cat "$build/commit" 2>/dev/null || echo unknown)"
gpu_is_there=no
if have nvidia-smi && nvidia-smi -L >"$parts/nvidia-smi.txt" 2>&1 && grep -q '^GPU ' "$parts/nvidia-smi.txt"; then
  gpu_is_there=yes
  nvidia-smi >>"$parts/nvidia-smi.txt" 2>&1
  cat "$parts/nvidia-smi.txt" >>"$log"
  say "$(grep '^GPU ' "$parts/nvidia-smi.txt")"
else
  missing "a GPU (nvidia-smi $(have nvidia-smi && echo 'lists none' || echo 'is not there'))"
fi
have nvcc || missing "nvcc (CUDA Toolkit): nothing can be compiled here"
have compute-sanitizer || missing "compute-sanitizer"

python=python3
have_torch=no
if have $python && timeout 60 $python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; then
  have_torch=yes
elif [ $gpu_is_there = yes ]; then
  missing "PyTorch that sees the GPU"
fi

# Where libraries of CUDA may lie: with the toolkit, and with packages of Python.
cuda_libraries() {
  local folder found=
  for folder in /usr/local/cuda/lib64 /usr/local/cuda*/lib64 $(
    have $python && $python -c 'import sys; print("\n".join(sys.path))' 2>/dev/null | while read -r path; do
      ls -d "$path"/nvidia/*/lib 2>/dev/null
    done
  ); do
    if [ -n "$(ls "$folder" 2>/dev/null | grep -E "^lib($1)\.so")" ]; then found+=${found:+:}$folder; fi
  done
  echo "$found"
}
nccl_folder=$(cuda_libraries 'nccl')
[ -n "$nccl_folder" ] || ldconfig -p 2>/dev/null | grep -q 'libnccl\.so' || missing "NCCL (libnccl.so.2)"

[ $gpu_is_there = yes ] || skip_all "no GPU"

# --- the programs ----------------------------------------------------------------------------------------------------

find_archive() {
  local place
  for place in "$root/tests" "$root/carried" "$root/gpu" "$root"; do
    [ ! -f "$place/vitrail-gpu.tar.xz" ] || { echo "$place"; return; }
  done
}
[ -n "$build" ] || build=$(find_archive)
if [ -n "$build" ] && [ -f "$build/vitrail-gpu.tar.xz" ] && [ ! -d "$build/vitrail-gpu/bin" ]; then
  unpacked=$(mktemp -d)
  tar -C "$unpacked" -xJf "$build/vitrail-gpu.tar.xz" || skip_all "$build/vitrail-gpu.tar.xz cannot be unpacked"
  build=$unpacked
fi
[ ! -d "$build/vitrail-gpu/bin" ] || build=$build/vitrail-gpu

build_here() {
  local mpi=ON
  have mpirun || mpi=OFF
  cd "$root" || return 1
  cmake --preset cuda --log-level=WARNING -DVITRAIL_MPI=$mpi &&
    cmake --build build/cuda --parallel "$(nproc)" --target vitrail-train vitrail-eval vitrail-selftest vitrail-bench \
      test_cuda
}
if [ -z "$build" ]; then
  have nvcc || skip_all "no programs: no nvcc, and no --build"
  have cmake || skip_all "no programs: no cmake, and no --build"
  have mpirun || missing "MPI: the programs are built for one rank"
  start build 300 bash -c "$(declare -f have build_here); root='$root' build_here"
  finish build
  if [ "${verdicts[build]:-passed}" = failed ]; then
    # CMake names the first library that it misses.
    grep -hE 'Could NOT find|Could not find|No package|REQUIRED' "$parts/build.txt" | head -n 5 | while read -r line; do
      missing "to build: $line"
    done
    skip_all "no programs: the build failed"
  fi
  build=$root/build/cuda
fi
bin=$build
[ ! -d "$build/bin" ] || bin=$build/bin
[ -x "$bin/vitrail-selftest" ] || skip_all "no programs in $build"
test_cuda=$bin/test_cuda
[ -x "$test_cuda" ] || test_cuda=$bin/tests/test_cuda
golden=$build/golden
[ -d "$golden" ] || golden=$root/tests/golden
peers=$build/peers
[ -f "$peers/torch_vmoe.py" ] || peers=${VITRAIL_PEERS:-}

export VITRAIL_LIBRARIES="$build/lib:$(cuda_libraries 'cublasLt|nccl|cudart')"
with_libraries() { LD_LIBRARY_PATH="$VITRAIL_LIBRARIES${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$@"; }
export -f with_libraries
unresolved=$(with_libraries ldd "$bin/vitrail-selftest" 2>/dev/null | awk '/not found/ {print $1}' | sort -u | tr '\n' ' ')
if [ -n "$unresolved" ]; then
  missing "libraries that the programs need: $unresolved"
  skip_all "no programs: they miss $unresolved"
fi
runs() { start "$1" "$2" bash -c 'with_libraries "$@"' bash "${@:3}"; }

# MPI: the system's own, or the one that was carried.
mpirun=
ranks_bin=$bin
if [ -x "$build/openmpi/bin/mpirun" ] && [ -x "$build/bin-mpi/vitrail-selftest" ]; then
  mpirun=$build/openmpi/bin/mpirun
  ranks_bin=$build/bin-mpi
  export OPAL_PREFIX=$build/openmpi PMIX_INSTALL_PREFIX=$build/openmpi/pmix2
elif have mpirun && with_libraries ldd "$bin/vitrail-train" | grep -q libmpi; then
  mpirun=$(command -v mpirun)
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive
if [ -n "$mpirun" ] && ! with_libraries timeout 30 "$mpirun" -np 2 --oversubscribe true >"$parts/mpirun.txt" 2>&1; then
  missing "an MPI that starts two processes here (parts.tar.gz, mpirun.txt)"
  mpirun=
  ranks_bin=$bin
fi
[ -n "$mpirun" ] || missing "MPI: several ranks cannot be tried"

# --- is it right -----------------------------------------------------------------------------------------------------

shopt -s nullglob
golden_files=()
for file in "$golden"/*.h5 "$golden"/second/*.h5; do
  [[ $file == */checkpoint_* ]] || golden_files+=("$file") # of conversion, which uses no GPU
done
model_files=("$golden"/model_*.h5 "$golden"/second/model_*.h5 "$golden"/router_*.h5)
shopt -u nullglob
if [ -x "$test_cuda" ]; then
  runs gpu-tests 150 "$test_cuda" --gtest_filter="*Cuda*" --gtest_output="json:$parts/gpu-tests.json" --gtest_brief=1
else
  skip gpu-tests "test_cuda is not there"
fi
runs golden-f32 120 "$bin/vitrail-selftest" golden "${golden_files[@]}" --backend cuda
runs golden-bf16 120 "$bin/vitrail-selftest" golden "${model_files[@]}" --backend cuda --precision bf16
finish gpu-tests golden-f32 golden-bf16

# --- is it fast ------------------------------------------------------------------------------------------------------

step() { # PART MODEL BATCH
  runs "step-$1" 90 "$bin/vitrail-bench" step --model "$2" --batch "$3" --leaf-images "$3" --backend cuda \
    --precision bf16 --steps 10 --warmup 3 --json --profile
  finish "step-$1"
}
torch_step() { # PART WORDS...
  if [ $have_torch = no ]; then
    skip "$1" "no PyTorch that sees the GPU"
  elif [ ! -f "$peers/torch_vmoe.py" ]; then
    skip "$1" "torch_vmoe.py is not there (VITRAIL_PEERS)"
  else
    run "$1" 90 $python "$peers/torch_vmoe.py" --model b16 --batch 128 --device cuda --dtype bf16 --steps 10 "${@:2}"
  fi
}
step b16 b16 128
torch_step torch
torch_step torch-compiled --compile
step s32 s32 512
step l16 l16 64
step 15b 15b-stack 64
runs gemm 45 "$bin/vitrail-bench" gemm --model b16 --batch 128 --leaf-images 128 --backend cuda --precision bf16 \
  --seconds 0.1 --json
finish gemm

# --- several ranks, and the sanitizer's view, side by side -----------------------------------------------------------

if [ -n "$mpirun" ]; then
  runs layouts 120 "$ranks_bin/vitrail-selftest" layouts --backend cuda --steps 10 --recipes none --mpirun "$mpirun"
else
  runs layouts 120 "$ranks_bin/vitrail-selftest" layouts --backend cuda --steps 10 --recipes none --most-ranks 1
fi
sanitize() { # TOOL FILTER N: every Nth of these tests
  if ! have compute-sanitizer; then
    skip "$1" "no compute-sanitizer"
  elif [ ! -x "$test_cuda" ]; then
    skip "$1" "test_cuda is not there"
  else
    runs "$1" 150 env GTEST_TOTAL_SHARDS="$3" GTEST_SHARD_INDEX=0 compute-sanitizer --tool "$1" --error-exitcode 9 \
      "$test_cuda" --gtest_brief=1 --gtest_filter="$2"
  fi
}
# Not all cases: each costs a hundred times as much here.
verbs='*CudaVerb.AgreesWithTheReferenceInBf16/*'
sanitize memcheck "$verbs" 2
sanitize racecheck "$verbs" 3
# Two ranks on one GPU through NCCL: it refuses them unless they seem to be on two hosts. Unsupported; it may hang.
if [ -z "$mpirun" ]; then
  skip nccl "no MPI"
else
  mkdir -p "$parts/nccl"
  words=("$ranks_bin/vitrail-train" --preset fmnist --backend cuda --communicator nccl --expert-parallel 2 --epochs 0
    --steps 4 --batch 64 --run-dir "$parts/nccl/run" --data "$parts/nccl/data")
  nccl_trial() {
    with_libraries "$1" --help >/dev/null || return 1
    with_libraries "$2" layouts --backend cpu --steps 8 --recipes none --most-ranks 1 --keep "$3/made" >/dev/null 2>&1
    mv "$3/made/data" "$3/data" || return 1
    with_libraries "$4" -np 1 -x NCCL_HOSTID=one -x LD_LIBRARY_PATH --oversubscribe "${@:5}" : \
      -np 1 -x NCCL_HOSTID=two -x LD_LIBRARY_PATH "${@:5}"
  }
  export -f nccl_trial
  start nccl 60 bash -c 'nccl_trial "$@"' bash "$ranks_bin/vitrail-train" "$ranks_bin/vitrail-selftest" "$parts/nccl" \
    "$mpirun" "${words[@]}"
fi
finish layouts memcheck racecheck nccl
if [ "${verdicts[nccl]:-}" = failed ]; then
  verdicts[nccl]=tried
  whys[nccl]="two ranks on one GPU are not supported by NCCL: ${whys[nccl]}"
fi
rm -rf "$parts/nccl"
end 0

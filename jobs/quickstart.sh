#!/bin/bash
# From a fresh Debian 12 to a trained, evaluated V-MoE: installs what is needed, builds, packs Fashion-MNIST, trains
# the preset fmnist on 2 MPI ranks with the experts spread over both, evaluates, and ends with a short table.
# On 2 cores: a few minutes of build, then at most 10 minutes. Every stage whose result is there is skipped: run it
# again after an interruption, and it goes on.
#
#   jobs/quickstart.sh                       all of it
#   jobs/quickstart.sh --no-install          without apt: the packages are there, or come from Spack or modules
#   jobs/quickstart.sh --precision f32|bf16  of matrix products in training. Left out: bf16 where the processor
#                                            multiplies it (AVX512_BF16, AMX), else f32; a run that goes on
#                                            keeps its own
#
# Writes build/release, data/fashion-mnist and runs/quickstart; remove one of them to have it made anew.
# Exit codes: 0 done, 2 cannot be done here, else that of the program that failed (README.md).
set -euo pipefail
cd "$(dirname "$0")/.."

images=/usr/share/datasets/fashion-mnist # Debian package dataset-fashion-mnist
programs=build/release
data=data/fashion-mnist
run_dir=runs/quickstart
ranks=2

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
install=yes
precision=
while [ $# -gt 0 ]; do
  case "$1=${2-}" in
    --no-install=*) install=no ;;
    --precision=f32 | --precision=bf16) precision=$2; shift ;;
    -h=* | --help=*) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

say() { printf '== %s\n' "$*"; }
refuse() {
  printf 'error: %s\n' "$@" >&2
  exit 2
}

install_packages() {
  if [ $install = no ]; then
    say "install: left out (--no-install)"
  else
    jobs/install_dependencies.sh quickstart
  fi
  for tool in cmake ninja; do
    command -v $tool >/dev/null || refuse "$tool is missing." "Install it: jobs/install_dependencies.sh build"
  done
  command -v mpirun >/dev/null || refuse "mpirun is missing, and training runs as $ranks MPI ranks." \
    "Install Open MPI (jobs/install_dependencies.sh build), or put your site's mpirun on PATH (module load openmpi)."
}

build() {
  if [ ! -f $programs/CMakeCache.txt ]; then
    say "build: configuring $programs"
    if command -v ccache >/dev/null; then
      export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
    fi
    cmake --preset release -DBUILD_TESTING=OFF --log-level=WARNING >/dev/null
  fi
  say "build: $programs (what is built already is kept)"
  cmake --build $programs --parallel "$(nproc)"
}

# pack train|test PREFIX SHARDS: one split of the data set. vitrail-pack gives it its name only once it is whole.
pack() {
  local split=$1 prefix=$2 shards=$3
  if [ -f "$data/$split/manifest.json" ]; then
    say "data: $data/$split is there"
    return
  fi
  [ -f "$images/$prefix-images-idx3-ubyte.gz" ] || refuse "$images/$prefix-images-idx3-ubyte.gz is missing." \
    "It comes with the Debian package dataset-fashion-mnist: jobs/install_dependencies.sh quickstart"
  say "data: packing $data/$split"
  mkdir -p $data
  $programs/vitrail-pack --images "$images/$prefix-images-idx3-ubyte.gz" \
    --labels "$images/$prefix-labels-idx1-ubyte.gz" --output "$data/$split" --shards "$shards" --classes 10
}

# mpirun for the ranks of this run. Not pinned, and allowed to share a core: the machine may be small or a container.
launch() { mpirun -np $ranks --oversubscribe --bind-to none "$@" </dev/null; }

# That of the run that is there, the one that was asked for, or what this processor is best at.
choose_precision() {
  if [ -e $run_dir/checkpoints/latest ]; then
    precision=$({ sed -n 's/^ *"precision": "\(.*\)",*$/\1/p' $run_dir/jobs/*.json 2>/dev/null || true; } | tail -n 1)
    precision=${precision:-f32}
  elif [ -z "$precision" ]; then
    precision=f32
    ! grep -qwE 'avx512_bf16|amx_bf16' /proc/cpuinfo || precision=bf16
  fi
}

train() {
  if [ -f $run_dir/summary.json ]; then
    say "train: $run_dir is trained (remove it to train again)"
    return
  fi
  choose_precision
  if [ -e $run_dir/checkpoints/latest ]; then
    say "train: going on from the last checkpoint of $run_dir, products in $precision"
  else
    say "train: preset fmnist on $ranks ranks, the experts spread over both, products in $precision"
  fi
  mkdir -p $run_dir
  # The ranks cannot see where the output ends up.
  local code=0 progress=log
  [ ! -t 1 ] || progress=terminal
  launch $programs/vitrail-train --preset fmnist --data $data/train --run-dir $run_dir --expert-parallel $ranks \
    --threads 1 --precision "$precision" --progress $progress --resume | tee -a $run_dir/train.log || code=${PIPESTATUS[0]}
  # On a terminal progress is one line redrawn: in the log it becomes lines.
  sed -i 's/\r/\n/g' $run_dir/train.log
  [ "$code" != 85 ] || printf 'stopped in time and saved: run jobs/quickstart.sh again to go on\n' >&2
  [ "$code" = 0 ] || exit "$code"
}

# Test accuracy as trained, then with less and less room for the experts, in both orders of routing. vitrail-eval
# writes evaluation.json last.
evaluate() {
  if [ -f $run_dir/evaluation.json ]; then
    say "evaluate: $run_dir is evaluated"
    cat $run_dir/evaluation.txt
    return
  fi
  say "evaluate: the 10,000 test images"
  launch $programs/vitrail-eval --run-dir $run_dir --data $data/test --expert-parallel $ranks --threads 1 \
    --capacity-table 0.1 0.25 0.5 1.05 | tee $run_dir/evaluation.txt
}

# number FILE KEY FORMAT [SCALE]: a number of a JSON file with one key a line, times SCALE; "-" if it has no such key.
number() {
  [ -f "$run_dir/$1" ] || { printf -; return; }
  LC_ALL=C awk -v key="\"$2\":" -v format="$3" -v scale="${4:-1}" '
    $1 == key { printf format, $2 * scale; found = 1; exit }
    END { if (!found) printf "-" }' "$run_dir/$1"
}

closing_table() {
  echo
  printf '%-34s %s\n' \
    "test accuracy" "$(number evaluation.json test_accuracy '%.2f %%' 100)" \
    "training time" "$(number summary.json train_wall_s '%.0f s')" \
    "images/s" "$(number summary.json images_per_s %.0f)" \
    "share of measured GEMM peak" "$(number summary.json gemm_peak_share '%.1f %%' 100)" \
    "choices dropped" "$(number summary.json drop_rate '%.2f %%' 100)" \
    "fullest expert / mean" "$(number summary.json load_imbalance %.2f)" \
    "checkpoint" "$run_dir/checkpoints" \
    "metrics" "$run_dir/metrics.jsonl" \
    "log" "$run_dir/train.log"
  cat <<END

Worth trying next:
  $programs/vitrail-selftest layouts
  $programs/vitrail-eval --run-dir $run_dir --data $data/test --selected 1 \\
    --output $run_dir/evaluation-k1.json
END
}

# Open MPI refuses to start as root without these two. Here root is you, in a container or on your own machine.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_WAIT_POLICY=passive
if [ "$(nproc)" -lt $ranks ]; then
  say "this machine lends $(nproc) core to $ranks ranks: they take turns, and it takes more than twice as long"
  export OMPI_MCA_mpi_yield_when_idle=1
fi

install_packages
build
pack train train 8
pack test t10k 2
train
evaluate
closing_table

# For the job scripts of this folder, which source it: where things are, and how ranks are started. They set `script`
# (their name) and `jobs` (this folder) before.
# shellcheck shell=bash disable=SC2034,SC2154  # the scripts and these functions share variables

say() { printf '%s: %s\n' "$script" "$*"; }

# refuse PROBLEM WHY WHAT_TO_TRY: the same command would fail again.
refuse() {
  printf '%s: error: %s (%s). %s\n' "$script" "$1" "$2" "$3" >&2
  exit 2
}

# manual FILE ARGUMENT...: prints the comment at the head of a script if that is what was asked for.
manual() {
  local file=$1
  case "${2:-}" in
    -h | --help) ;;
    *) return 0 ;;
  esac
  sed -n '2,/^$/{/^#SBATCH/d;/^$/d;s/^# \{0,1\}//;p}' "$file" | sed 1d
  exit 0
}

# value_of NAME ARGUMENT...: what --NAME VALUE or --NAME=VALUE says, the last one counts; else what a configuration
# file behind --config says. Nothing if nobody says it.
value_of() {
  local name=$1 value='' file='' take=''
  shift
  for word in "$@"; do
    case "$take" in
      value) value=$word ;;
      file) file=$word ;;
    esac
    take=
    case "$word" in
      "--$name") take="value" ;;
      "--$name="*) value=${word#*=} ;;
      --config) take="file" ;;
      --config=*) file=${word#*=} ;;
    esac
  done
  if [ -z "$value" ] && [ -f "$file" ]; then
    value=$(sed -n "s/^[[:space:]]*${name}[[:space:]]*=[[:space:]]*\([^#]*[^#[:space:]]\).*/\1/p" "$file" | tail -n 1)
  fi
  printf '%s' "$value"
}

# find_program NAME: sets `program`.
find_program() {
  local folder
  for folder in "$VITRAIL_BIN" "$jobs/../../../bin" "$jobs/../build/release"; do
    [ -n "$folder" ] && [ -x "$folder/$1" ] && { program=$(cd "$folder" && pwd)/$1; return; }
    [ -z "$VITRAIL_BIN" ] ||
      refuse "there is no program $1 in $VITRAIL_BIN" "VITRAIL_BIN names that folder" "Build it, or edit cluster.env"
  done
  program=$(command -v "$1") ||
    refuse "there is no program $1" "it is neither installed beside $jobs, nor in build/release, nor on PATH" \
      "Build it, load its module, or set VITRAIL_BIN in cluster.env"
}

# launch OPTION_OF_SRUN... -- PROGRAM ARGUMENT...: the ranks, to their end; the code is in `code`.
# A signal to the batch shell alone (--signal=B:USR1) is passed on. TERM is not caught: on scancel this shell dies
# first, so that nothing is requeued.
launch() {
  local -a options words
  local asked
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  # Site's words are split at blanks.
  read -r -a words <<<"$VITRAIL_SRUN"
  step=
  trap 'asked=yes; [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null' USR1 USR2
  srun --kill-on-bad-exit=1 --wait=60 "${words[@]}" "${options[@]}" "$@" &
  step=$!
  asked=yes
  while [ "$asked" = yes ]; do  # a signal ends `wait`, and not the ranks
    asked=no
    wait "$step"
    code=$?
  done
  trap : USR1 USR2 # one that comes too late changes nothing
}

# explain CODE: what an exit code asks of its reader.
explain() {
  case "$1" in
    0) say "done" ;;
    2) say "exit code 2: the same command would fail again; mend it and submit again" ;;
    3) say "exit code 3: the data are missing, damaged or of the wrong kind" ;;
    4) say "exit code 4: a checkpoint cannot be written or read; when there is space again, submit the same to go on" ;;
    5) say "exit code 5: a number that is none" ;;
    6) say "exit code 6: no progress; the lines above say where the ranks were. Submit the same to go on" ;;
    85) say "exit code 85: stopped in time and saved; submit the same to go on" ;;
    137 | 143)
      say "exit code $1: a rank crashed, ran out of memory or was killed, and srun ended the others; submit the same" \
        "to go on from the last checkpoint"
      ;;
    1) say "exit code 1: the error stands above" ;;
    *) say "exit code $1: none of Vitrail's own; srun says above what happened. Submit the same to go on" ;;
  esac
}

[ -n "${SLURM_JOB_ID:-}" ] || case "${1:-}" in
  -h | --help) ;;
  *) refuse "this is no Slurm job" "the ranks are started by srun in an allocation" \
      "Submit it: sbatch [options of sbatch] $script [options of the program]" ;;
esac
cluster=${VITRAIL_CLUSTER_ENV:-$jobs/cluster.env}
[ -r "$cluster" ] || refuse "$cluster cannot be read" "it says what this cluster needs" "Copy it from the sources"
# shellcheck source=jobs/cluster.env
. "$cluster"
# srun does not take --cpus-per-task from sbatch by itself (Slurm 22.05 and later).
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
threads=${VITRAIL_THREADS:-${SLURM_CPUS_PER_TASK:-}}
export OMP_NUM_THREADS=${threads:-1}

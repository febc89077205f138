# For pretrain.sbatch and finetune.sbatch, which source it: training over many lives of a job.
# shellcheck shell=bash disable=SC2154  # what launch.sh sets

# newest_step RUN_DIR: the step of its newest whole checkpoint, 0 if there is none.
newest_step() {
  local name=''
  [ ! -r "$1/checkpoints/latest" ] || read -r name <"$1/checkpoints/latest" || true
  name=${name#step-}
  case "$name" in
    '' | *[!0-9]*) echo 0 ;;
    *) echo $((10#$name)) ;;
  esac
}

# RUN_DIR/requeues: the newest step when this life of the job began, and how many requeues before it brought none.
# note_start RUN_DIR: writes it; sets `began_at` and `idle`. Somebody who submits a job starts the count again.
note_start() {
  local before=0
  idle=0
  began_at=$(newest_step "$1")
  if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    [ ! -r "$1/requeues" ] || read -r before idle <"$1/requeues" || true
    if [ "$began_at" -gt "${before:-0}" ]; then idle=0; else idle=$((${idle:-0} + 1)); fi
  elif [ ! -d "$1" ]; then
    return  # step 0 and no requeue need no file: a refused command leaves nothing behind
  fi
  mkdir -p "$1" && echo "$began_at $idle" >"$1/requeues.new" && mv -f "$1/requeues.new" "$1/requeues" ||
    say "warning: $1/requeues cannot be written"
}

give_up() {
  say "error: $VITRAIL_REQUEUES requeues in a row brought no checkpoint newer than that of step $began_at." \
    "See the log above; a longer time limit or a smaller --save-every may help. Submit the same to try again" >&2
  exit 1
}

# requeue_job: once, whether the site's Slurm requeues exit code 85 by itself or not; and not a job that is being
# cancelled, or requeued already.
requeue_job() {
  local state by_slurm
  state=$(squeue -h -j "$SLURM_JOB_ID" -o %T)
  if [ "$state" != RUNNING ]; then
    say "stopped in time and saved; not requeued here: the job is $state"
    return
  fi
  by_slurm=$(scontrol show config | sed -n 's/^RequeueExit *= *//p')
  if exit_codes_hold 85 "$by_slurm"; then
    say "stopped in time and saved; Slurm requeues exit code 85"
  elif scontrol requeue "$SLURM_JOB_ID"; then
    say "stopped in time and saved; requeued"
  else
    say "stopped in time and saved, but scontrol did not requeue the job: submit the same to go on" >&2
  fi
}

# exit_codes_hold CODE LIST: whether a list as of Slurm's RequeueExit ("1,80-90") holds it.
exit_codes_hold() {
  local part
  for part in ${2//,/ }; do
    case "$part" in
      *[!0-9-]* | '') ;;
      *-*) [ "$1" -ge "${part%-*}" ] && [ "$1" -le "${part#*-}" ] && return ;;
      *) [ "$1" = "$part" ] && return ;;
    esac
  done
  return 1
}

# train ARGUMENT...: one life of a run. Ends this script.
train() {
  local run_dir code
  run_dir=$(value_of run-dir "$@")
  [ -n "$run_dir" ] ||
    refuse "no --run-dir was given" "checkpoints and metrics need a place, where the next job finds them" \
      "Add --run-dir DIR, on a file system that all nodes see"
  find_program vitrail-train
  note_start "$run_dir"
  say "job $SLURM_JOB_ID, life $((${SLURM_RESTART_COUNT:-0} + 1)): $SLURM_NTASKS ranks on $SLURM_JOB_NUM_NODES nodes," \
    "from step $began_at of $run_dir"
  [ "$idle" -le "$VITRAIL_REQUEUES" ] || give_up
  launch -- "$program" ${threads:+--threads "$threads"} --resume "$@"
  if [ "$code" = 85 ]; then
    [ "$(newest_step "$run_dir")" -gt "$began_at" ] || [ "$idle" -lt "$VITRAIL_REQUEUES" ] || give_up
    requeue_job
  else
    explain "$code"
  fi
  exit "$code"
}

#!/bin/bash
# The table of a scaling experiment, from what scaling.sbatch left in a folder:
#
#   jobs/scaling_table.sh DIR
#
# Speed-up is in images/s over the point with the fewest ranks; efficiency is speed-up over the ratio of ranks.
# Exit codes: 0 done, 2 wrong usage, 3 no results there.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  "" | -*) usage >&2; exit 2 ;;
esac
shopt -s nullglob
files=("$1"/ranks-*-nodes-*.jsonl)
[ ${#files[@]} -gt 0 ] || { echo "error: $1 holds no results (scaling.sbatch writes them)." >&2; exit 3; }

# A line of JSON per point becomes one of fields, the points go by ranks and nodes, and the fields into the table.
LC_ALL=C awk '
  function of(key,    place, text) {
    if (!match($0, "\"" key "\": *")) return "-"
    text = substr($0, RSTART + RLENGTH)
    if (substr(text, 1, 1) == "\"") { text = substr(text, 2); return substr(text, 1, index(text, "\"") - 1) }
    match(text, /^[^,}]*/)
    return substr(text, 1, RLENGTH)
  }
  /"bench": *"train_step"/ {
    nodes = FILENAME; sub(/.*-nodes-/, "", nodes); sub(/\.jsonl$/, "", nodes)
    print of("ranks"), nodes, of("threads"), of("model"), of("batch"), of("expert_parallel"), of("step_s"),
          of("images_per_s"), of("fraction_of_peak")
  }' "${files[@]}" | sort -k1,1n -k2,2n | LC_ALL=C awk '
  BEGIN {
    row = "%6s %6s %8s %-28s %7s %4s %12s %12s %9s %11s %10s\n"
    printf row, "ranks", "nodes", "threads", "model", "batch", "EP", "ms/step", "images/s", "speed-up", "efficiency",
           "GEMM peak"
  }
  {
    if (NR == 1) { first = $8; fewest = $1 }
    printf row, $1, $2, $3, $4, $5, $6, sprintf("%.3f", 1000 * $7), sprintf("%.1f", $8), sprintf("%.2f", $8 / first),
           sprintf("%.1f %%", 100 * $8 / first * fewest / $1), sprintf("%.1f %%", 100 * $9)
  }'

#!/bin/bash
# Ends a Slurm that start_slurm.sh started, with all its jobs, and removes its folder:
#
#   tests/slurm/stop_slurm.sh FOLDER
#   tests/slurm/stop_slurm.sh FOLDER --when-stdin-ends   waits for the end of its standard input before it does
set -uo pipefail

case "${1:-}" in
  "" | -*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
dir=$1
if [ "${2:-}" = --when-stdin-ends ]; then cat >/dev/null; fi
[ -d "$dir" ] || exit 0
nodes=0 network='' bridge=''
# shellcheck disable=SC1091
[ ! -f "$dir/settings" ] || . "$dir/settings"

alive() {
  local state
  state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) && [ "${state%% *}" != Z ]
}
# Numbers of processes are used again: ours names our folder.
is_ours() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF "$dir"; }
end() {
  local pid
  pid=$(cat "$dir/run/$1" 2>/dev/null) && alive "$pid" && is_ours "$pid" || return 0
  kill -TERM "$pid" 2>/dev/null
  for _ in {1..50}; do
    alive "$pid" || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null
}

for ((i = 1; i <= nodes; i++)); do
  # With process 1 of a PID namespace go all of the node.
  pid=$(cat "$dir/run/n$i.first" 2>/dev/null) && alive "$pid" && is_ours "$pid" && kill -KILL "$pid"
  [ "$network" != netns ] || ip link del "$bridge-n$i" 2>/dev/null
done
end controller.pid
end munged.pid
[ "$network" != netns ] || ip link del "$bridge" 2>/dev/null
[ ! -d "$dir/disk" ] || umount --lazy "$dir/disk"
rm -rf "$dir"

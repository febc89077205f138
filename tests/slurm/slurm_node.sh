#!/bin/bash
# A virtual node of the Slurm that start_slurm.sh started in FOLDER:
#
#   tests/slurm/slurm_node.sh FOLDER start n2   boots it
#   tests/slurm/slurm_node.sh FOLDER kill n2    power failure: every process of the node dies at once
#   tests/slurm/slurm_node.sh FOLDER killd n2   only its slurmd dies
#   tests/slurm/slurm_node.sh FOLDER cut n2     takes its network away (not with a shared network)
#   tests/slurm/slurm_node.sh FOLDER join n2    gives it back
#   tests/slurm/slurm_node.sh FOLDER pids n2    its processes, by this machine's numbers
set -euo pipefail

fail() {
  echo "slurm_node.sh: $*" >&2
  exit 1
}
[ $# = 3 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
dir=$1 verb=$2 node=$3
network='' bridge='' prefix=''
# shellcheck disable=SC1091
. "$dir/settings"
cable=${bridge:-none}-$node

# A zombie is dead.
alive() {
  local state
  state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) && [ "${state%% *}" != Z ]
}
first_process() {
  local pid
  pid=$(cat "$dir/run/$node.first" 2>/dev/null) && alive "$pid" && echo "$pid"
}
of_node() {
  local space entry
  space=$(readlink "/proc/$(first_process)/ns/pid")
  for entry in /proc/[0-9]*; do
    [ "$(readlink "$entry/ns/pid" 2>/dev/null)" != "$space" ] || echo "${entry#/proc/}"
  done
}

boot() {
  local unshared pid='' own_network=()
  [ -z "$(first_process || :)" ] || fail "$node is up"
  [ "$network" != netns ] || own_network=(--net)
  rm -f "$dir/run/$node.first" "$dir/run/$node.go"
  # It waits in its new namespaces until its network cable is in.
  setsid unshare "${own_network[@]}" --uts --ipc --mount --pid --fork --mount-proc \
    bash "$0" "$dir" inside "$node" </dev/null >>"$dir/log/$node.out" 2>&1 &
  unshared=$!
  for _ in {1..200}; do
    read -r pid _ <"/proc/$unshared/task/$unshared/children" || :
    [ -z "$pid" ] || break
    sleep 0.02
  done
  [ -n "$pid" ] || fail "$node: no namespaces"
  if [ "$network" = netns ]; then
    ip link del "$cable" 2>/dev/null || :
    while [ "$(readlink "/proc/$pid/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
    ip link add "$cable" type veth peer name eth0 netns "$pid"
    ip link set "$cable" master "$bridge" up
    # The same hardware address as before its death: the others remember it.
    nsenter -t "$pid" -n ip link set eth0 address "$(printf '02:00:00:00:00:%02x' "${node#n}")"
    nsenter -t "$pid" -n ip addr add "$prefix.${node#n}/24" dev eth0
    nsenter -t "$pid" -n ip link set eth0 up
    nsenter -t "$pid" -n ip link set lo up
  fi
  echo "$pid" >"$dir/run/$node.first"
  : >"$dir/run/$node.go"
}

# Process 1 of the node: boots, and stays to reap what ends.
inside() {
  hostname "$node"
  mount --bind "$dir/etc/hosts" /etc/hosts
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  rm -rf "$dir/job/$node" "$dir/spool/$node" # what a crash left
  mkdir "$dir/spool/$node"
  mkdir -m 1777 "$dir/job/$node"
  while [ ! -e "$dir/run/$node.go" ]; do sleep 0.02; done
  export SLURM_CONF=$dir/etc/$node/slurm.conf
  trap : TERM INT HUP
  slurmd -D -f "$SLURM_CONF" -N "$node" &
  echo $! >"$dir/run/$node.slurmd"
  while :; do
    wait || :
    sleep 0.5
  done
}

case $verb in
  start) boot ;;
  inside) inside ;;
  kill)
    pid=$(first_process) || fail "$node is down"
    kill -KILL "$pid"
    while alive "$pid"; do sleep 0.02; done # it dies after all others of the node
    ip link del "$cable" 2>/dev/null || :
    ;;
  killd)
    pid=$(first_process) || fail "$node is down"
    nsenter -t "$pid" -p -m kill -KILL "$(cat "$dir/run/$node.slurmd")"
    ;;
  cut) ip link set "$cable" down ;;
  join) ip link set "$cable" up ;;
  pids) of_node ;;
  *) fail "no such verb: $verb" ;;
esac

#!/bin/bash
# Starts a throw-away Slurm on this one machine: a real slurmctld, and a real slurmd for each virtual node n1, n2, ...
# A node is a PID, network, host-name, IPC and mount namespace of its own, so that MPI between two nodes is TCP between
# two hosts, and the death of its first process is a power failure. Needs root and Debian's packages (slurmctld slurmd
# slurm-client slurm-wlm-basic-plugins munge iproute2 util-linux).
#
#   tests/slurm/start_slurm.sh --can       says what is possible here: netns, shared, or why not (exit code 1)
#   tests/slurm/start_slurm.sh [-n NODES] [-c CPUS] [-s] [-q] [-f MIB]
#     -n NODES   virtual nodes (4)
#     -c CPUS    that each claims to have; may be more than the machine's (4)
#     -s         shared network: no network namespaces, all nodes on 127.0.0.1; one such Slurm at a time
#     -f MIB     a small file system of its own at FOLDER/disk, which all nodes see
#     -q         Slurm does not requeue exit code 85 by itself (RequeueExit is empty)
#
# Prints its folder. Then: export SLURM_CONF=FOLDER/etc/slurm.conf; slurm_node.sh and stop_slurm.sh go with it.
# tests/slurm/README.md tells what was seen to work in it, and what not.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

fail() {
  echo "start_slurm.sh: $*" >&2
  exit 1
}
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

what_can_be_done() {
  local program
  [ "$(id -u)" = 0 ] || { echo "no: namespaces and slurmd need root"; return 1; }
  for program in slurmctld slurmd munged srun ip unshare nsenter setsid; do
    command -v $program >/dev/null || { echo "no: $program is missing (jobs/install_dependencies.sh test)"; return 1; }
  done
  unshare --uts --ipc --mount --pid --fork --mount-proc true 2>/dev/null ||
    { echo "no: namespaces are not permitted here"; return 1; }
  if unshare --net ip link set lo up 2>/dev/null && ip link add vslurmtry type bridge 2>/dev/null; then
    ip link del vslurmtry
    echo netns
  else
    echo shared
  fi
}

nodes=4 cpus=4 disk='' network='' requeue_exit=85
case "${1:-}" in
  --can) what_can_be_done; exit ;;
  -h | --help) usage; exit 0 ;;
esac
while getopts n:c:f:sq option; do
  case $option in
    n) nodes=$OPTARG ;;
    c) cpus=$OPTARG ;;
    f) disk=$OPTARG ;;
    s) network=shared ;;
    q) requeue_exit= ;;
    *) usage >&2; exit 2 ;;
  esac
done
can=$(what_can_be_done) || fail "$can"
network=${network:-$can}

dir=$(mktemp -d /tmp/vslurm.XXXXXX) # short: names of sockets have 108 characters
chmod 755 "$dir"
mkdir -p "$dir"/{etc,state,log,run,spool,job}
chmod 1777 "$dir/job"
mkdir -m 700 "$dir/munge"
started=no
clean_up() {
  [ $started = no ] || return 0
  echo "start_slurm.sh: not started" >&2
  tail -n 5 "$dir"/log/* >&2 || :
  "$here/stop_slurm.sh" "$dir"
}
trap clean_up EXIT

if [ -n "$disk" ]; then # before the nodes begin: what is mounted later they do not see
  mkdir "$dir/disk"
  mount -t tmpfs -o "size=${disk}m,mode=1777" tmpfs "$dir/disk"
fi

# The network: a bridge and a range of addresses that no other Slurm of this kind has; or loopback, with a port a node.
bridge='' prefix=''
if [ "$network" = netns ]; then
  for number in 0 1 2 3 4 5 6 7; do
    bridge=vslurm$number prefix=10.213.$((77 + number))
    ip link add $bridge type bridge 2>/dev/null && break
    bridge=
  done
  [ -n "$bridge" ] || fail "eight bridges vslurm0 to vslurm7 are there already"
  ip addr add $prefix.254/24 dev $bridge
  ip link set $bridge up
  controller=$prefix.254 controller_port=6817
else
  controller=127.0.0.1 controller_port=16817
fi
address_of() { if [ "$network" = netns ]; then echo "$prefix.$1"; else echo 127.0.0.1; fi; }
port_of() { if [ "$network" = netns ]; then echo 6818; else echo $((17000 + $1)); fi; }

host=$(hostname -s)
{
  echo "127.0.0.1 localhost"
  echo "$controller $host"
  for ((i = 1; i <= nodes; i++)); do echo "$(address_of $i) n$i"; done
} >"$dir/etc/hosts"
echo "network=$network nodes=$nodes bridge=$bridge prefix=$prefix" >"$dir/settings"

# Quick to notice a lost node, to schedule and to kill; cred_expire decides when a requeued job may start again.
cat >"$dir/etc/slurm.conf" <<END
ClusterName=vslurm
SlurmctldHost=$host($controller)
SlurmctldPort=$controller_port
CommunicationParameters=NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
SlurmctldDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SlurmdTimeout=10
TCPTimeout=2
MessageTimeout=10
KillWait=5
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=10000,batch_sched_delay=0
SlurmctldParameters=node_reg_mem_percent=1,preempt_send_user_signal
JobRequeue=1
${requeue_exit:+RequeueExit=$requeue_exit}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
MinJobAge=86400
$(for ((i = 1; i <= nodes; i++)); do
  echo "NodeName=n$i NodeHostname=n$i NodeAddr=$(address_of $i) Port=$(port_of $i) CPUs=$cpus RealMemory=4000"
done)
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE DefaultTime=10 DefMemPerCPU=100 State=UP
PartitionName=main Default=YES PriorityTier=10
PartitionName=low  PriorityTier=1 GraceTime=10
PartitionName=high PriorityTier=20
END
for ((i = 1; i <= nodes; i++)); do # a folder a node: the PMIx plug-in's files must not meet
  mkdir -p "$dir/etc/n$i"
  ln -s ../slurm.conf "$dir/etc/n$i/slurm.conf"
  echo "PMIxCliTmpDirBase=$dir/job/n$i" >"$dir/etc/n$i/mpi.conf"
done

(umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
munged --key-file="$dir/munge/key" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" \
  --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" --num-threads=2
export SLURM_CONF=$dir/etc/slurm.conf
# This machine's own name means the controller's address to the controller alone.
# shellcheck disable=SC2016
setsid unshare --mount sh -c 'mount --bind "$1/etc/hosts" /etc/hosts; exec slurmctld -D -f "$1/etc/slurm.conf"' \
  sh "$dir" </dev/null >"$dir/log/slurmctld.out" 2>&1 &
echo $! >"$dir/run/controller.pid"
for ((i = 1; i <= nodes; i++)); do "$here/slurm_node.sh" "$dir" start n$i; done

SECONDS=0
while [ $SECONDS -lt 60 ]; do
  if [ "$(timeout 3 sinfo -h -p main -t idle -o %D 2>/dev/null || :)" = "$nodes" ]; then
    started=yes
    echo "$dir"
    exit 0
  fi
  kill -0 "$(cat "$dir/run/controller.pid")" 2>/dev/null || fail "slurmctld ended"
  sleep 0.2
done
fail "the nodes did not come up within a minute"

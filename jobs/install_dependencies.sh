#!/bin/bash
# Installs the Debian (12 or later) packages that Vitrail needs, as root or through sudo.
#
#   jobs/install_dependencies.sh build        what compiling and running needs
#   jobs/install_dependencies.sh quickstart   that, and the data set Fashion-MNIST
#   jobs/install_dependencies.sh test         that, and what the tests need
#   jobs/install_dependencies.sh LIST --print only names the packages, one a line
#
# Packages that are there stay as they are; apt is not called when none is missing. On a cluster, where you are not
# root, install with Spack instead (README.md). Exit codes: 0 done, 1 apt failed, 2 cannot be done here.
set -euo pipefail

# ocl-icd-opencl-dev: Debian's oneDNN does not let CMake find it without.
build=(g++ cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libboost-program-options-dev
  libdnnl-dev ocl-icd-opencl-dev libhwy-dev libeigen3-dev nlohmann-json3-dev libssl-dev zlib1g-dev
  libzip-dev libmsgpack-cxx-dev)
quickstart=("${build[@]}" dataset-fashion-mnist)
test=("${quickstart[@]}" git python3 libgtest-dev libboost-context-dev clang-format clang-tidy libomp-dev
  slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge iproute2 util-linux)

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

case "${1:-}" in
  build) packages=("${build[@]}") ;;
  quickstart) packages=("${quickstart[@]}") ;;
  test) packages=("${test[@]}") ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
case "${2:-}" in
  "") ;;
  --print) printf '%s\n' "${packages[@]}"; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "error: this is no Debian system, so its packages cannot be installed here." >&2
  echo "Install with Spack (README.md), or the equivalents of: ${packages[*]}" >&2
  exit 2
fi

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
  echo "install: all packages are there"
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "error: root is needed to install packages, and there is no sudo. Ask an administrator for:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 2
  fi
  as_root=(sudo)
  { : </dev/tty; } 2>/dev/null || as_root=(sudo -n)  # nobody there to type a password
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" \
    </dev/null >>"$log" 2>&1
}
# A package without a candidate: the package lists are missing or too old.
lists_know_all() {
  local package
  for package in "${missing[@]}"; do
    apt-cache policy "$package" 2>/dev/null | grep -q '^ *Candidate: [^(]' || return 1
  done
}
give_up() {
  echo "error: apt-get $1 failed. Its last lines:" >&2
  tail -n 20 "$log" | sed 's/^/  /' >&2
  exit 1
}

echo "install: ${missing[*]}"
updated=no
if ! lists_know_all; then
  apt update || give_up update
  updated=yes
fi
if ! apt install --no-install-recommends "${missing[@]}"; then
  [ $updated = no ] || give_up install
  apt update || give_up update
  apt install --no-install-recommends "${missing[@]}" || give_up install
fi
echo "install: done"

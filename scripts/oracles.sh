#!/usr/bin/env bash
# Installs what the tests and benchmarks compare with or run: QEMU, OpenSBI, compilers, tools for disks,
# networks and scripts, a counter of instructions, a browser; and Otava, another finder of change points.
set -euo pipefail
cd "$(dirname "$0")"
packages=(
  qemu-user gcc g++ libc6-dev binutils-riscv64-linux-gnu gcc-riscv64-linux-gnu
  g++-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-system-misc opensbi cpio kmod
  device-tree-compiler chromium chromium-driver iproute2 curl
  qemu-utils e2fsprogs dosfstools fdisk gdisk
  shellcheck valgrind strace
)
status=0
missing() {
  echo "oracles: cannot install $* here; tests that need them will be skipped" >&2
  if [ "${CI:-}" = true ]; then status=1; fi
}
./apt_install.sh "${packages[@]}" || missing "${packages[*]}"

# In an environment of its own: the tests' would get thirty packages for the sake of one. Of what it
# asks for, its analysis needs two.
otava=${XDG_CACHE_HOME:-$HOME/.cache}/hartwood/oracles/otava-0.8.0
if [ ! -e "$otava/complete" ]; then
  rm -rf "$otava"
  pip=("$otava/bin/python" -m pip install --quiet --no-input)
  if ../.venv/bin/python -m venv "$otava" && "${pip[@]}" 'numpy==2.2.*' 'scipy==1.16.*' &&
    "${pip[@]}" --no-deps apache-otava==0.8.0; then
    touch "$otava/complete"
  else
    missing apache-otava
  fi
fi
exit "$status"

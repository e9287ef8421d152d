#!/usr/bin/env bash
# Installs what the tests and benchmarks compare with or run: QEMU, OpenSBI, compilers, tools for disks, networks and scripts, a browser.
set -euo pipefail
cd "$(dirname "$0")"
packages=(
  qemu-user gcc g++ libc6-dev binutils-riscv64-linux-gnu gcc-riscv64-linux-gnu
  g++-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-system-misc opensbi cpio kmod
  device-tree-compiler chromium chromium-driver iproute2 curl
  qemu-utils e2fsprogs dosfstools fdisk gdisk
)
if ./apt_install.sh "${packages[@]}"; then exit 0; fi
echo "oracles: cannot install ${packages[*]} here; tests that need them will be skipped" >&2
if [ "${CI:-}" = true ]; then exit 1; fi

#!/usr/bin/env bash
# Installs the named Debian packages that are not there yet; exit 1 when this machine or user cannot.
set -euo pipefail
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || exit 1
missing=()
for package in "$@"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || exit 1
  as_root=(sudo -n)
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=4 -o DPkg::Lock::Timeout=300 "$@"; }
for tries in 1 2 3; do
  # The lists may be absent or old: a failed install is tried again after an update.
  if apt install --yes --no-install-recommends "${missing[@]}" >/dev/null; then exit 0; fi
  sleep $((tries * 3))
  apt update >/dev/null || true
done
exit 1

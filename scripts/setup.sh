#!/usr/bin/env bash
# Makes .venv with Hartwood installed in it: `setup.sh` for use, `setup.sh dev` for development.
set -euo pipefail
cd "$(dirname "$0")/.."

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }
retry() { # a registry that stumbles once is asked again
  local tries
  for tries in 1 2 3 4; do "$@" && return 0; sleep $((tries * 5)); done
  return 1
}

if ! suits .venv/bin/python; then
  python=
  for candidate in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if suits "$candidate"; then python=$candidate; break; fi
  done
  if [ -z "$python" ]; then
    echo "setup: Python 3.11, 3.12 or 3.13 is needed and none is on PATH; name one: make setup PYTHON=..." >&2
    exit 1
  fi
  # Debian ships venv without ensurepip until python3-venv is there.
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    scripts/apt_install.sh python3-venv || {
      echo "setup: $python has no ensurepip; install python3-venv first" >&2
      exit 1
    }
  fi
  rm -rf .venv
  "$python" -m venv .venv
  # A recent pip writes start scripts that do not import `re`: six milliseconds of every start.
  retry .venv/bin/python -m pip install --quiet --upgrade 'pip>=25.2'
  # Old venvs bring setuptools, whose .pth file runs at each start of Python.
  .venv/bin/python -m pip uninstall --quiet --yes setuptools 2>/dev/null || true
fi

extra=${1:+[$1]}
retry .venv/bin/python -m pip install --quiet --editable ".$extra"
# An editable install leaves our own modules uncompiled, which doubles the time of a start.
.venv/bin/python -m compileall -q src/hartwood
touch .venv/.setup
[ "${1:-}" = dev ] && touch .venv/.dev
echo "setup: .venv/bin/hartwood is ready ($(.venv/bin/python -V))"

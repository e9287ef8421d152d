#!/usr/bin/env bash
# Measures this tree and judges it against another revision: the entry point for any CI.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: scripts/run_benchmarks.sh [options] [SELECTOR ...]

Measures the tree as it is (OUT/run.json), and with --base judges it (OUT/gate.json).

  --mode M       quick (the default), full or classic, see docs/BENCHMARKING.md; none only judges
  --base REV     judge the tree against its merge-base with REV; auto takes the main branch, or the
                 commit before on the main branch itself. Forty zeros (a branch that is new) are auto.
  --head REV     judge REV instead of the tree as it is
  --alert P      per cent from which on a regression is an alert (10)
  --warn P       per cent from which on a regression is a warning (5)
  --block S      what blocks: any (the default), warn or alert
  --file F       benchmarks of your own, relative to the repository; may be given several times
  --out DIR      where results go (bench/results)
  SELECTOR       names, families, groups or globs of benchmarks; all without

HARTWOOD names the program where it is neither .venv/bin/hartwood nor on PATH.

Exit status: 0 nothing regressed; 1 regressed, or a benchmark gave a wrong answer; 2 could not judge.

Examples:
  scripts/run_benchmarks.sh --base origin/main --mode none      # a pull request
  scripts/run_benchmarks.sh --mode full "memory/*"              # figures to keep
  scripts/run_benchmarks.sh --file bench_mine.py --base HEAD~1  # another project's
EOF
}

fail() {
  echo "run_benchmarks: $1" >&2
  exit 2
}

mode=quick base='' out=bench/results
judge=() files=() selectors=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --mode | --base | --head | --alert | --warn | --block | --file | --out)
      [ $# -ge 2 ] || fail "$1 wants a value; --help shows how"
      case $1 in
        --mode) mode=$2 ;;
        --base) base=$2 ;;
        --out) out=$2 ;;
        --file) files+=(--file "$2") ;;
        *) judge+=("$1" "$2") ;;
      esac
      shift 2
      ;;
    -*) fail "no such option: $1; --help shows those there are" ;;
    *) selectors+=("$1") && shift ;;
  esac
done
case $mode in quick | full | classic | none) ;; *) fail "--mode is quick, full, classic or none, not $mode" ;; esac
[ -n "$base" ] || [ "$mode" != none ] || fail "--mode none without --base is nothing to do"

hartwood=${HARTWOOD:-.venv/bin/hartwood}
command -v "$hartwood" >/dev/null || hartwood=hartwood
command -v "$hartwood" >/dev/null || fail "there is no hartwood here: run make setup, or set HARTWOOD"
# What an earlier run left must not pass for this one's.
mkdir -p "$out" || fail "$out cannot be made"
rm -f "$out/run.json" "$out/gate.json" || fail "$out cannot be written"

status=0
if [ "$mode" != none ]; then
  "$hartwood" bench run "--$mode" --json "$out/run.json" "${files[@]}" "${selectors[@]}" || status=$?
fi
if [ -n "$base" ]; then
  case $base in auto | 0000000000000000000000000000000000000000) ;; *) judge+=(--base "$base") ;; esac
  judged=0
  "$hartwood" bench gate --json "$out/gate.json" "${judge[@]}" "${files[@]}" "${selectors[@]}" || judged=$?
  # Regressed before could not judge, as everywhere.
  if [ "$judged" -eq 1 ] || [ "$status" -eq 0 ]; then status=$judged; fi
fi
case $status in 0 | 1) exit "$status" ;; *) exit 2 ;; esac

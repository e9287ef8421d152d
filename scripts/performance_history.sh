#!/usr/bin/env bash
# The history of measurements, kept on a branch of its own that shares no commit with the code.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: scripts/performance_history.sh pull DIR | reference DIR [REV] | push DIR

  pull DIR             put the branch's history into DIR; nothing where there is no branch yet
  reference DIR [REV]  print the commit that this history measures against: REV, else what the
                       newest record has, else the newest tag, else HEAD (the first run pins itself)
  push DIR             add DIR's history to the branch; refused where somebody else was faster

BRANCH (performance-history) and REMOTE (origin) can be set in the environment.

Exit status: 0 done, 2 not.

Example:
  scripts/performance_history.sh pull performance
  hartwood bench history performance --add gate.json
  scripts/performance_history.sh push performance
EOF
}

branch=${BRANCH:-performance-history} remote=${REMOTE:-origin} lines=history.jsonl

fail() {
  echo "performance_history: $1" >&2
  exit 2
}

# The commit of the branch, or nothing where there is none. A remote that does not answer is neither.
tip() {
  local status=0
  git ls-remote --exit-code --heads "$remote" "refs/heads/$branch" >/dev/null || status=$?
  case $status in
    0) ;;
    2) return 0 ;;
    *) fail "$remote does not answer" ;;
  esac
  git fetch --quiet "$remote" "refs/heads/$branch" || fail "$branch cannot be fetched"
  git rev-parse FETCH_HEAD
}

pull() {
  local found
  found=$(tip)
  mkdir -p "$1"
  if [ -z "$found" ]; then
    echo "performance_history: $remote has no $branch: this is the first run"
  else
    git show "$found:$lines" >"$1/$lines" || fail "$branch has no $lines"
    echo "performance_history: $(wc -l <"$1/$lines") records from $branch"
  fi
}

reference() {
  local name=${2:-}
  if [ -z "$name" ] && [ -s "$1/$lines" ]; then
    name=$(sed -n 's/.*"reference": "\([0-9a-f]\{7,\}\)".*/\1/p' "$1/$lines" | tail -n 1)
  fi
  if [ -z "$name" ]; then
    name=$(git describe --tags --abbrev=0 2>/dev/null) || name=HEAD
  fi
  git rev-parse --verify --quiet "$name^{commit}" || fail "$name is no commit here"
}

push() {
  [ -s "$1/$lines" ] || fail "$1/$lines is empty or missing: nothing to push"
  local before blob tree commit parent=()
  before=$(tip)
  if [ -n "$before" ]; then
    parent=(-p "$before")
    # It only ever grows: what is there already has to be the beginning of what is pushed.
    git show "$before:$lines" | cmp --silent --bytes="$(git cat-file -s "$before:$lines")" - "$1/$lines" ||
      fail "$1/$lines does not continue what $branch has"
  fi
  blob=$(git hash-object -w "$1/$lines")
  tree=$(printf '100644 blob %s\t%s\n' "$blob" "$lines" | git mktree)
  if [ -n "$before" ] && [ "$tree" = "$(git rev-parse "$before^{tree}")" ]; then
    echo "performance_history: nothing new for $branch"
    return
  fi
  commit=$(git -c user.name=performance -c user.email=performance@localhost \
    commit-tree "$tree" "${parent[@]}" -m "Measurements of $(git rev-parse --short HEAD)")
  git push --quiet "$remote" "$commit:refs/heads/$branch" || fail "$branch was not taken"
  echo "performance_history: $(wc -l <"$1/$lines") records on $branch"
}

case ${1:-} in
  pull | push) [ $# -eq 2 ] || fail "$1 wants a folder; --help shows how" ;;
  reference) [ $# -ge 2 ] || fail "reference wants a folder; --help shows how" ;;
  --help | -h) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
esac
"$@"

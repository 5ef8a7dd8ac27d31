#!/usr/bin/env bash
# test-again.sh PYTHON PYTEST_ARGUMENTS...: runs the tests, and the few that failed once more, alone.
#
# A shared machine stalls now and then, and some tests wait for other processes. What fails by itself as well is a
# defect, and so is more than a few at once: both fail here. What passed only by itself is told last: it is to be
# mended, too.
set -euo pipefail

readonly MOST_AGAIN=3
readonly TESTS_FAILED=1 # pytest's exit status

python=$1
shift
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT

status=0
"$python" -m pytest -o cache_dir="$cache" "$@" || status=$?
[ "$status" -eq "$TESTS_FAILED" ] || exit "$status"

failed=$("$python" -c 'import json, sys; print(*json.load(open(sys.argv[1])), sep="\n")' "$cache/v/cache/lastfailed")
[ "$(wc -l <<<"$failed")" -le "$MOST_AGAIN" ] || exit "$status"
echo "*** once more, alone: ***" $'\n'"$failed" >&2
"$python" -m pytest -o cache_dir="$cache" "$@" -n 0 --last-failed --last-failed-no-failures none
echo "*** PASSED ONLY WHEN RUN AGAIN, ALONE; TO BE MENDED: ***" $'\n'"$failed" >&2

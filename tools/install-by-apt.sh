#!/bin/bash
# install-by-apt.sh WHAT LOOK PACKAGE...: see to it that WHAT is there, for tests of jupyter_gpuaas that need it.
#
# It is there where the command LOOK says so. Otherwise Debian's apt installs the packages, if this is root's shell; or
# this ends with a status other than 0 and says why, and the tests are left out.
set -euo pipefail

what=$1 look=$2
shift 2
say() { echo "install-by-apt: $*" >&2; }
there() { bash -c "$look" >/dev/null 2>&1; }

there && exit 0
. /etc/os-release 2>/dev/null || true
if [[ ${ID:-} != debian ]] || ! command -v apt-get >/dev/null; then
  say "this is ${PRETTY_NAME:-an unknown system}: install $what by hand."
  exit 1
fi
if [[ $(id -u) -ne 0 ]]; then
  say "only root can install $what: apt-get install $*"
  exit 1
fi
say "installing $*"
export DEBIAN_FRONTEND=noninteractive
report=$(mktemp)
trap 'rm -f "$report"' EXIT
if ! { apt-get update -qq && apt-get install -qq --yes --no-install-recommends "$@"; } >"$report" 2>&1; then
  tail -n 5 "$report" >&2
  say "apt could not install $what."
  exit 1
fi
there || { say "apt has installed $what, but it is not found."; exit 1; }

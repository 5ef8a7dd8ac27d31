#!/bin/bash
# See to it that there are chromium and chromedriver, for the browser tests of jupyter_gpuaas.
#
# Where they are missing, Debian's apt installs them, if this is root's shell. Otherwise this ends with a status other
# than 0 and says why; the tests then skip themselves.
set -euo pipefail

say() { echo "install-chromium: $*" >&2; }
there() { command -v chromedriver >/dev/null && command -v chromium >/dev/null; }

there && exit 0
. /etc/os-release 2>/dev/null || true
if [[ ${ID:-} != debian ]] || ! command -v apt-get >/dev/null; then
  say "this is ${PRETTY_NAME:-an unknown system}: install chromium and chromedriver by hand."
  exit 1
fi
if [[ $(id -u) -ne 0 ]]; then
  say "only root can install them: apt-get install chromium chromium-driver"
  exit 1
fi
say "installing chromium and chromium-driver"
export DEBIAN_FRONTEND=noninteractive
report=$(mktemp)
trap 'rm -f "$report"' EXIT
if ! { apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium chromium-driver fonts-dejavu-core; } \
  >"$report" 2>&1; then
  tail -n 5 "$report" >&2
  say "apt could not install them."
  exit 1
fi
there || { say "apt has installed them, but they are not on PATH."; exit 1; }

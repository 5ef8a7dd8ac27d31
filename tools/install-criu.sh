#!/bin/bash
# Install a CRIU of its own for the process images of jupyter_gpuaas (docs/process-images.md).
#
#   tools/install-criu.sh [PREFIX]      default: .venv/criu beside this script's folder
#
# Afterwards PREFIX/bin/criu is a working CRIU, or this script has ended with a status other than 0 and said why.
# Nothing outside of PREFIX changes: the packages of a later Debian are fetched by apt, with lists and a state of their
# own, unpacked into PREFIX/root, and started through the loader and the C library that came with them. The criu of the
# first of SUITES that works is kept. Works means two things, tried here: `criu check`, and the dump of a process that
# has a TCP socket. Debian 12's (3.17.1) fails the first on newer Linux kernels, Debian 13's (4.1.1) the second from
# Linux 6.16 on.
#
# A second run finds what the first one made, and does nothing.
set -euo pipefail

PACKAGE=criu
SUITES=(trixie forky sid)
STAMP=1 # raise to have existing folders made again

say() { echo "install-criu: $*" >&2; }
die() {
  say "$*"
  exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=$(realpath -m "${1:-$here/.venv/criu}")
wrapper=$prefix/bin/criu

# What CRIU itself says of this machine, and whether it does what it says.
works() {
  local criu=$1 report=$2 images pid status=0
  "$criu" check >"$report" 2>&1 || return 1
  images=$(mktemp -d)
  setsid perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0) && listen(S, 1) or die; $| = 1; print "\n"; sleep 60' \
    </dev/null >"$images/ready" 2>/dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- & # a lock of the caller's is not to be dumped
  pid=$!
  for _ in {1..500}; do
    [[ -s $images/ready ]] && break
    sleep 0.01
  done
  mkdir "$images/d"
  # setsid forks when it leads a group; the process that listens is then its child.
  pid=$(pgrep -P "$pid" perl || echo "$pid")
  "$criu" dump --tree "$pid" --images-dir "$images/d" --leave-running --manage-cgroups=ignore -v1 \
    >"$report" 2>&1 || status=1
  kill -9 "$pid" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$images"
  return $status
}

[[ $(uname -s) == Linux ]] || die "CRIU is there for Linux only, this is $(uname -s)."
report=$(mktemp)
work=
trap 'rm -rf "$report" ${work:+"$work"}' EXIT

if [[ -x $wrapper && $(cat "$prefix/stamp" 2>/dev/null) == "$STAMP" ]]; then
  if [[ $(id -u) -ne 0 ]] || works "$wrapper" "$report"; then
    say "$wrapper is there already."
    exit 0
  fi
  say "$wrapper is there and does not work here; it is made again."
fi

[[ $(id -u) -eq 0 ]] || die "CRIU dumps and restores as root only, and this is user $(id -un). Run it as root, or do \
without process images: sessions then move at the end of a cell."
. /etc/os-release
case "${ID:-}:${VERSION_ID:-}" in
debian:12 | debian:13) ;;
*)
  # Packages of Debian 13 bring all their libraries, but only Debian's apt has the keys that vouch for them.
  if found=$(command -v criu) && works "$found" "$report"; then
    mkdir -p "$prefix/bin"
    ln -sfn "$found" "$wrapper"
    echo "$STAMP" >"$prefix/stamp"
    say "this is ${PRETTY_NAME:-no Debian}; its own $found works and is used."
    exit 0
  fi
  die "this is ${PRETTY_NAME:-an unknown system}, and only Debian 12 and 13 are served here. Install a CRIU that \
passes \`criu check\` (as root), and put it on PATH or name it in GPUAAS_CRIU."
  ;;
esac
for tool in apt-get dpkg-deb dpkg; do
  command -v "$tool" >/dev/null || die "$tool is not there."
done

# The mirror is the one that this machine's apt uses for Debian itself.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  awk -v own="${VERSION_CODENAME:-}" '$2 == own && $3 == "main" { print $1; exit }')
[[ -n $mirror ]] || die "apt of this machine has no source for ${VERSION_CODENAME:-its release}, main."
keyring=
for candidate in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-trixie-stable.gpg; do
  [[ -r $candidate ]] && keyring=$candidate && break
done
[[ -n $keyring ]] || die "the package debian-archive-keyring is not installed, so nothing could be verified."

fetch() {
  local suite=$1
  work=$(mktemp -d "$prefix/.install.XXXXXX")
  mkdir -p "$work"/{etc/sources.list.d,etc/preferences.d,state/lists/partial,cache/archives/partial,root}
  : >"$work/state/status" # as if nothing were installed: every library comes along, the C library too
  echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/etc/sources.list"
  local apt=(
    apt-get -qq --no-install-recommends --yes
    -o "Dir::Etc::sourcelist=$work/etc/sources.list"
    -o "Dir::Etc::sourceparts=$work/etc/sources.list.d"
    -o "Dir::Etc::preferences=/dev/null"
    -o "Dir::Etc::preferencesparts=$work/etc/preferences.d"
    -o "Dir::State=$work/state"
    -o "Dir::State::status=$work/state/status"
    -o "Dir::Cache=$work/cache"
    -o "Debug::NoLocking=1"
    -o "APT::Sandbox::User=root"
  )
  if ! "${apt[@]}" update >"$report" 2>&1 || ! "${apt[@]}" install --download-only "$PACKAGE" >"$report" 2>&1; then
    reasons+="; $suite: apt cannot fetch it: $(tail -n 2 "$report" | tr '\n' ' ')"
    return 1
  fi
  local archive loader program libraries
  for archive in "$work"/cache/archives/*.deb; do
    dpkg-deb --extract "$archive" "$work/root"
  done
  loader=$(cd "$work/root" && find . -name 'ld-linux*.so.*' | sort | head -n 1)
  program=$(cd "$work/root" && find . -path '*bin/criu' | head -n 1)
  # Where /lib is no link to /usr/lib in the packages, both are looked through.
  libraries=$(cd "$work/root" && find . -name '*.so*' -printf '%h\n' | sort -u |
    grep -E '/lib(64)?(/[^/]+-linux-gnu[^/]*)?$' | sed "s|^\.|$prefix/root|" | paste -sd:)
  if [[ -z $loader || -z $program ]]; then
    reasons+="; $suite: its packages hold no loader or no criu"
    return 1
  fi
  mkdir -p "$prefix/bin"
  rm -rf "$prefix/root"
  mv "$work/root" "$prefix/root"
  cat >"$work/criu" <<WRAPPER
#!/bin/sh
# Made by tools/install-criu.sh: CRIU with the loader and libraries that it was built for.
exec "$prefix/root/${loader#./}" --library-path "$libraries" "$prefix/root/${program#./}" "\$@"
WRAPPER
  chmod 755 "$work/criu"
  mv -f "$work/criu" "$wrapper"
  rm -rf "$work"
  if ! works "$wrapper" "$report"; then
    reasons+="; $suite: $("$wrapper" --version | head -n 1 || true): \
$(grep -E 'Error' "$report" | grep -v RLIMIT_NOFILE | tail -n 2 | tr '\n' ' ')"
    return 1
  fi
}

mkdir -p "$prefix"
reasons=
for suite in "${SUITES[@]}"; do
  say "trying $PACKAGE of Debian $suite."
  if fetch "$suite"; then
    echo "$STAMP" >"$prefix/stamp"
    say "$wrapper: $("$wrapper" --version | head -n 1). It passes \`criu check\` and dumps a process with a socket."
    exit 0
  fi
done
rm -f "$wrapper"
die "no CRIU works on Linux $(uname -r)$reasons"

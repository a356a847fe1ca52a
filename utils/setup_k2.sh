#!/usr/bin/env bash
# Find a k2 that works, install one for the running torch, or make a small environment that has one.
#
#   utils/setup_k2.sh [--check] [--index URL | --no-index] [--folder DIR]
#
# options:
#   --check       look for a k2 that works, change nothing
#   --index URL   where k2's wheels are listed (default: k2's own index)
#   --no-index    do not look for a wheel for the running torch
#   --folder DIR  the small environment (default: $UNISPEECH_K2, else
#                 ${XDG_CACHE_HOME:-~/.cache}/unispeech/k2-1.23.4)
#
# A wheel from the index goes into the running environment. The small environment has k2 1.23.4,
# the last one on the package index, with the torch 1.13.1 that it was built for (3.4 GB), and only
# decodes stored emissions; it needs Linux on x86-64 and Python 3.9, 3.10 or 3.11.
set -euo pipefail

root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
folder=${UNISPEECH_K2:-${XDG_CACHE_HOME:-$HOME/.cache}/unispeech/k2-1.23.4}
check=false
index=
stamp_text="k2 1.23.4, torch 1.13.1, numpy 1.26.4"

fail() { # <exit code> <message>
  echo "setup_k2.sh: error: $2" >&2
  exit "$1"
}

while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --index=* | --folder=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --check) check=true; shift ;;
    --no-index) index=none; shift ;;
    --index | --folder)
      [[ $# -gt 1 && -n $2 ]] || fail 2 "$1 wants a value; see utils/setup_k2.sh --help"
      if [[ $1 == --index ]]; then index=$2; else folder=$2; fi
      shift 2 ;;
    *) fail 2 "unknown option '$1'; see utils/setup_k2.sh --help" ;;
  esac
done
[[ $folder == /* ]] || folder=$PWD/$folder
python=${UNISPEECH_PYTHON:-$(command -v python || true)}
[[ -n $python ]] || fail 69 "no python; source path.sh first"

# Importing torch takes seconds, so it is tried only where there is a k2 at all.
works_here() {
  "$python" -c 'import sys, importlib.util as u; sys.exit(u.find_spec("k2") is None)' &&
    "$python" -c 'import k2, torch; k2.ctc_topo(2); print("k2 works with torch", torch.__version__)' \
      2>/dev/null
}

is_made() {
  [[ -x $folder/bin/python && -f $folder/unispeech.stamp &&
    $(<"$folder/unispeech.stamp") == "$stamp_text" ]]
}

ready() {
  if works_here; then return; fi
  if is_made; then echo "k2 1.23.4 with torch 1.13.1 is in $folder"; return; fi
  return 1
}

install_from_index() {
  local wheel
  wheel=$("$python" "$root/utils/k2_wheel.py" ${index:+"$index"}) || return
  echo "setup_k2.sh: installing $wheel" >&2
  "$python" -m pip install --no-deps "$wheel" >>"$log" 2>&1 && works_here && return
  "$python" -m pip uninstall -y k2 >>"$log" 2>&1 || true
  echo "setup_k2.sh: that wheel does not work here; see $log" >&2
  return 1
}

# Versions of pip read the names of k2's wheels as fitting every Python, so the hash tells them
# apart: each one holds the extension for one Python only.
wheel_hash() { # <3.x>
  case $1 in
    3.9) echo e483092fc06bbf211827474e17d71c3acee8a37ddbee32cbf2706bf179f2fa19 ;;
    3.10) echo 1404589732fdb7f6f5bf62297a20dd73318b7b4f2e10dd52dc3d5b6669688a4c ;;
    3.11) echo 5b5f709b12b9cd092b583984d0b7d940c9f898101259c998d68d1f4adefa48d4 ;;
    *) return 1 ;;
  esac
}

# Sets `base` and `minor`. Names on PATH may be shims of pyenv that start nothing.
find_base() {
  local candidate
  for candidate in python3.9 python3.10 python3.11 "$python" python3 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.{9,10,11}.*/bin/python; do
    minor=$("$candidate" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' \
      2>/dev/null) && wheel_hash "$minor" >/dev/null && base=$candidate && return
  done
  return 1
}

make_environment() {
  local base minor
  [[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] ||
    fail 69 "k2 1.23.4 is for Linux on x86-64; install a k2 for your torch from k2's index by hand"
  find_base || fail 69 "no Python 3.9, 3.10 or 3.11 with venv and ensurepip was found; install one"
  echo "setup_k2.sh: making $folder with Python $minor (2 GB to download); log: $log" >&2
  rm -f "$folder/unispeech.stamp"
  if ! {
    "$base" -m venv --clear "$folder" &&
      # Without bytecode of the many files that are never read it takes half the time.
      "$folder/bin/python" -m pip install --no-compile torch==1.13.1 numpy==1.26.4 &&
      "$folder/bin/python" -m pip install --no-compile --no-deps --require-hashes -r \
        <(echo "k2==1.23.4 --hash=sha256:$(wheel_hash "$minor")") &&
      "$folder/bin/python" -c 'import k2, torch; k2.ctc_topo(2); print(torch.__version__)'
  } >>"$log" 2>&1; then
    tail -n 3 "$log" >&2
    fail 69 "no k2 could be installed; see $log"
  fi
  echo "$stamp_text" >"$folder/unispeech.stamp.new"
  mv "$folder/unispeech.stamp.new" "$folder/unispeech.stamp"
}

if ready; then exit; fi
if $check; then fail 69 "no k2 works here; run: bash utils/setup_k2.sh"; fi
mkdir -p "$folder" 2>/dev/null && [[ -w $folder ]] || fail 74 "cannot write to $folder"
trap 'echo "setup_k2.sh: interrupted; the next call begins again" >&2; exit 130' INT
log=$folder.log
# One installation at a time; who waited finds the work done. The lock goes with the process.
exec 9>"$folder.lock"
if command -v flock >/dev/null; then flock 9; fi
if ready; then exit; fi
: >"$log"
if [[ $index != none ]] && install_from_index; then exit; fi
make_environment
ready

# shellcheck shell=bash
# Makes the Python environment when it is missing or out of date, and puts it first on PATH.
#
#   source path.sh
#
# The environment is .venv beside this file, or the one of the interpreter $UNISPEECH_PYTHON.
# A stamp, written last, says that the installation is whole; without it the work is done again.

_unispeech_hash() { # <root> <interpreter's identity>
  { cat "$1/setup.py" "$1/constraints.txt" && printf '%s\n' "$@"; } |
    if command -v sha256sum >/dev/null; then sha256sum; else cksum; fi
}

# An own environment is known by pyvenv.cfg, a foreign one by its interpreter, so that a finished
# installation is recognised without starting Python.
_unispeech_identity() { # <interpreter>
  cat "${1%/*}/../pyvenv.cfg" 2>/dev/null || readlink -f -- "$1"
}

_unispeech_expected_stamp() { # <root> <interpreter>
  printf '%s %s\n' "$(_unispeech_hash "$1" "$(_unispeech_identity "$2")")" "$1"
}

_unispeech_is_ready() { # <root> <interpreter> <stamp>
  [[ -x $2 && -f $3 && $(<"$3") == "$(_unispeech_expected_stamp "$1" "$2")" ]]
}

_unispeech_base_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null &&
      echo "$candidate" && return
  done
  echo "path.sh: error: no Python 3.10 or newer found ($(python3 --version 2>&1 | tail -n 1));" \
    "install one, or set UNISPEECH_PYTHON to the python of an environment" >&2
  return 1
}

_unispeech_make_venv() { # <root> <log>
  local python
  python=$(_unispeech_base_python) || return
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "path.sh: error: $python has no venv module; install it (Debian: python3-venv)" \
      "or set UNISPEECH_PYTHON to the python of an environment" >&2
    return 1
  fi
  "$python" -m venv --clear "$1/.venv" >>"$2" 2>&1 && return
  echo "path.sh: error: $1/.venv could not be made; see $2" >&2
  return 1
}

_unispeech_install() { # <root> <interpreter> <stamp>
  local root=$1 python=$2 stamp=$3 log=$1/build/environment.log torch
  echo "path.sh: installing into ${python%/bin/*} (takes some minutes); log: $log" >&2
  : >"$log" || return
  # Without a stamp the installation was interrupted and nothing in it can be trusted; with the
  # stamp of another folder it was moved, and its scripts still start the old interpreter.
  if [[ -z ${UNISPEECH_PYTHON:-} ]] &&
    [[ ! (-x $python && -f $stamp && $(<"$stamp") == *" $root") ]]; then
    _unispeech_make_venv "$root" "$log" || return
  fi
  rm -f "$stamp" || return
  # torch goes first and alone: a resolver that sees it with the rest may take another build.
  torch=$(grep '^torch==' "$root/constraints.txt") || return
  if ! { "$python" -m pip install "$torch" &&
    "$python" -m pip install -c "$root/constraints.txt" -e "${root}[tiny,dev]"; } >>"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "path.sh: error: the installation failed; see $log" >&2
    return 1
  fi
  _unispeech_expected_stamp "$root" "$python" >"$stamp.new" &&
    mv "$stamp.new" "$stamp"
}

_unispeech_environment() {
  local root python prefix stamp status=0
  root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P) || return
  python=${UNISPEECH_PYTHON:-$root/.venv/bin/python}
  [[ $python == /* ]] || python=$PWD/$python
  if [[ -n ${UNISPEECH_PYTHON:-} && ! (-x $python && -x ${python%/*}/python) ]]; then
    echo "path.sh: error: UNISPEECH_PYTHON=$python is not the bin/python of an environment" >&2
    return 1
  fi
  prefix=${python%/bin/*}
  if [[ -n ${UNISPEECH_PYTHON:-} && ! -f $prefix/pyvenv.cfg ]]; then
    prefix=$("$python" -c 'import sys; print(sys.prefix)') || return
  fi
  stamp=$prefix/unispeech.stamp
  if ! _unispeech_is_ready "$root" "$python" "$stamp"; then
    if [[ -n ${UNISPEECH_PYTHON:-} && ! -w $prefix ]]; then
      if ! "$python" -c 'import unispeech' 2>/dev/null; then
        echo "path.sh: error: $prefix has no unispeech and cannot be written to" >&2
        return 1
      fi
    else
      mkdir -p "$root/build" || return
      ( # One installation at a time; who waited finds the work done.
        trap 'exit 130' INT
        trap 'exit 143' TERM
        if command -v flock >/dev/null; then flock 9 || exit; fi
        _unispeech_is_ready "$root" "$python" "$stamp" ||
          _unispeech_install "$root" "$python" "$stamp"
      ) 9>"$root/build/environment.lock" || status=$?
      if ((status == 130)); then
        echo "path.sh: interrupted; the next call starts the installation again" >&2
      fi
      ((status == 0)) || return "$status"
    fi
  fi
  [[ $PATH == "${python%/*}:"* ]] || PATH=${python%/*}:$PATH
  # One order of sorting and one encoding everywhere.
  export PATH LC_ALL=C.UTF-8 PYTHONUTF8=1
}

_unispeech_status=0
_unispeech_environment || _unispeech_status=$?
unset -f _unispeech_hash _unispeech_identity _unispeech_expected_stamp _unispeech_is_ready \
  _unispeech_base_python _unispeech_make_venv _unispeech_install _unispeech_environment
# `exit` is reached only when the file is executed instead of sourced.
# shellcheck disable=SC2317
return "$_unispeech_status" 2>/dev/null || exit "$_unispeech_status"

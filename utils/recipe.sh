# shellcheck shell=bash
# The engine of every recipe: options, stages, dry run, log of commands. A run.sh declares
# `name=default   # help` between "# options" and "# end of options", then sources this file:
#
#   . "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
#   if stage 1 "manifests"; then run python -m unispeech validate "$exp/data" "${overrides[@]}"; fi
#
# stage N "name"   succeeds when stage N is to run
# run COMMAND...   executes (or, in a dry run, prints) one command; ends the recipe when it fails
# first_of FILE... prints the first of these files that exists; none of them is an error
# usage_error TEXT ends the recipe with exit code 2 and where to find the options
# overrides        the key=value words of the command line
# command_line     the command that started the recipe, for the report
# root, recipe     folders of the repository and of the run.sh; the recipe runs in the latter
set -euo pipefail

_script=${BASH_SOURCE[1]}
_caller=$PWD
_stage=0 _stage_name="" # the stage that runs
_child="" _signals=0          # the running command; signals received
_stop=""                      # exit code that a signal asks for
_names=() _resume=() overrides=()
declare -A _help=() _kind=()
# Locals of functions that touch options by name begin with "_", as no option may.
recipe=$(CDPATH='' cd "$(dirname "$_script")" && pwd -P)
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage_error() {
  echo "$_script: error: $1; see: $(_quoted bash "$_script" --help)" >&2
  exit 2
}

first_of() { # <file>...
  local _file
  for _file in "$@"; do
    if [[ -f $_file ]]; then echo "$_file"; return; fi
  done
  echo "$_script: error: no such configuration; expected one of: $*; see: ls $recipe/conf" >&2
  exit 78
}

_quoted() { # words as a shell would read them back, on one line
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

_read_declarations() {
  local _line _inside=false _name _comment
  while IFS= read -r _line; do
    case $_line in
      "# options"*) _inside=true ;;
      "# end of options"*) return ;;
      *) if $_inside && [[ $_line =~ ^([a-z][a-z0-9_]*)= ]]; then
        _name=${BASH_REMATCH[1]} _comment=""
        [[ $_line == *"# "* ]] && _comment=${_line##*"# "}
        _names+=("$_name")
        _help[$_name]=$_comment
        case ${!_name} in
          true | false) _kind[$_name]="true or false" ;;
          *[!0-9]* | "") _kind[$_name]="a value" ;;
          *) _kind[$_name]="a whole number" ;;
        esac
      fi ;;
    esac
  done <"$recipe/${_script##*/}"
}

_print_help() {
  local _line _name _width=4 _pattern='^[^#]*stage ([0-9]+) "([^"]*)"'
  echo "usage: $(_quoted bash "$_script") [--option value ...] [key=value ...]"
  echo
  while IFS= read -r _line && [[ $_line == "#"* ]]; do
    [[ $_line == "#!"* ]] && continue
    _line=${_line#"#"}
    echo "${_line# }"
  done <"$recipe/${_script##*/}"
  printf '\noptions:\n'
  for _name in "${_names[@]}"; do ((${#_name} <= _width)) || _width=${#_name}; done
  for _name in "${_names[@]}"; do
    printf "  --%-${_width}s  %s%s\n" "${_name//_/-}" "${_help[$_name]}" \
      "${!_name:+ (default: ${!_name})}"
  done
  printf '\nstages:\n'
  while IFS= read -r _line; do
    if [[ $_line =~ $_pattern ]]; then
      printf '  %2d  %s\n' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    fi
  done <"$recipe/${_script##*/}"
  printf '\nAny further key=value reaches the configuration of the Python commands.\n'
}

_distance() { # Levenshtein distance of two words
  local a=$1 b=$2 i j cost best
  local -a previous=() current=()
  for ((j = 0; j <= ${#b}; j++)); do previous[j]=$j; done
  for ((i = 1; i <= ${#a}; i++)); do
    current=("$i")
    for ((j = 1; j <= ${#b}; j++)); do
      [[ ${a:i-1:1} == "${b:j-1:1}" ]] && cost=0 || cost=1
      best=$((previous[j - 1] + cost))
      ((previous[j] + 1 < best)) && best=$((previous[j] + 1))
      ((current[j - 1] + 1 < best)) && best=$((current[j - 1] + 1))
      current[j]=$best
    done
    previous=("${current[@]}")
  done
  echo "${previous[${#b}]}"
}

_nearest() { # the declared option nearest to a wrong one
  local _name distance nearest="" least=${#1}
  ((${#1} <= 40)) || return 0
  for _name in "${_names[@]}" help; do
    if [[ $_name == "$1"* ]]; then least=0 nearest=$_name; fi
    distance=$(_distance "$1" "$_name")
    if ((distance < least)); then least=$distance nearest=$_name; fi
  done
  [[ -z $nearest ]] || ((least > 3)) || echo "; did you mean --${nearest//_/-}?"
}

_set() { # <option> <value>, checked against the kind of the default
  local _option=$1 _name=$2 _value=$3 _want=${_kind[$2]} _wrong=""
  case $_want in
    "true or false") [[ $_value == true || $_value == false ]] || _wrong=yes ;;
    "a whole number")
      if [[ $_value =~ ^[0-9]{1,15}$ ]]; then _value=$((10#$_value)); else _wrong=yes; fi ;;
  esac
  [[ -z $_wrong ]] || usage_error "$_option wants $_want, found $(_quoted "$_value")"
  case $_name in
    corpora | exp | arpa | rescore_arpa | lexicon | lm_text | audio | splits | musan | rirs | lang | parts | segments) [[ $_value == /* || -z $_value ]] || _value=$_caller/$_value ;;
    init | pretrained | recogniser | lm) # a name, or a place
      [[ $_value == /* || -z $_value || ! -e $_caller/$_value ]] || _value=$_caller/$_value ;;
  esac
  printf -v "$_name" %s "$_value"
}

_parse() {
  local _word _name _option _value _from
  while (($#)); do
    _word=$1 _from=1
    case $_word in
      -h | --help) _print_help; exit 0 ;;
      --*)
        _option=${_word%%=*}
        _name=${_option#--} _name=${_name//-/_}
        # The pattern goes first: `-v` would execute $(...) inside the brackets.
        [[ $_name =~ ^[a-z][a-z0-9_]*$ && -v _kind[$_name] ]] ||
          usage_error "unknown option $(_quoted "$_option")$(_nearest "$_name")"
        if [[ $_word == *=* ]]; then
          _value=${_word#*=}
        elif (($# > 1)) && [[ $2 != --* ]]; then
          _value=$2 _from=2
        else
          usage_error "$_option wants ${_kind[$_name]}"
        fi
        _set "$_option" "$_name" "$_value"
        [[ $_name == stage ]] || _resume+=("${@:1:_from}") ;;
      *)
        [[ $_word =~ ^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*= ]] ||
          usage_error "expected --option value or key=value, found $(_quoted "$_word")"
        overrides+=("$_word") _resume+=("$_word") ;;
    esac
    shift "$_from"
  done
}

stage() {
  [[ -z $_stop ]] || exit "$_stop"
  # shellcheck disable=SC2154 # declared by the run.sh
  (($1 >= stage && $1 <= stop_stage)) || return 1
  _stage=$1 _stage_name=$2
  if ${dry_run:-false}; then echo "# == stage $1: $2 =="; else echo "== stage $1: $2 =="; fi
}

_receive() { # <signal>
  _signals=$((_signals + 1))
  if [[ $1 == INT ]]; then
    _stop=130 # the terminal sends Ctrl-C to the command as well
  else
    _stop=75
    [[ -z $_child ]] || kill "-$1" "$_child" 2>/dev/null || true
  fi
}

_still_runs() { # <process>
  local _state
  _state=$(ps -o stat= -p "$1" 2>/dev/null) || return
  [[ $_state && $_state != Z* ]]
}

_log() { # <time> <command> <exit code> <seconds>
  [[ -n ${exp:-} ]] || return 0
  mkdir -p "$exp" && printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$_stage" "${@:2}" >>"$exp/commands.tsv"
}

run() {
  local command code start=$SECONDS time seen
  command=$(_quoted "$@")
  if ${dry_run:-false}; then echo "$command"; return; fi
  [[ -z $_stop ]] || exit "$_stop"
  printf '[%(%F %T)T] %s\n' -1 "$command"
  printf -v time '%(%FT%T%z)T' -1
  # In the background, because bash handles a signal only when a foreground command has ended.
  # Background commands ignore Ctrl-C and read nothing; `trap -` and `<&0` give both back.
  (trap - INT TERM USR1; exec "$@") <&0 &
  _child=$!
  while :; do
    seen=$_signals code=0
    wait "$_child" || code=$?
    # Else a signal ended `wait`, not the command; bash then says 128 + signal, or at times -1.
    ((seen != _signals || code < 0)) || break
    ((code < 0)) || continue
    # The status may be lost for good: a command that has ended is not waited for again.
    _still_runs "$_child" || { code=${_stop:-1}; break; }
    sleep 0.1
  done
  _child=""
  case $code in # what a command that was stopped by a signal may end with
    0 | 75 | 130 | 138 | 143) code=${_stop:-$code} ;;
  esac
  _log "$time" "$command" "$code" "$((SECONDS - start))" || { ((code)) || code=74; }
  ((code == 0)) || _end "$code" "$command"
}

_end() { # <exit code> <command>
  local again=(bash "$_script" "${_resume[@]}" --stage "$_stage")
  echo "$_script: error: stage $_stage ($_stage_name) ended with exit code $1: $2;" \
    "continue with: $(_quoted "${again[@]}")" >&2
  exit "$1"
}

workers() { # processors this machine offers
  nproc 2>/dev/null || getconf _NPROCESSORS_ONLN
}

_read_declarations
_parse "$@"
# shellcheck disable=SC2034 # for the recipe: what the user typed, as the report shows it
command_line=$(_quoted bash "${recipe#"$root/"}/${_script##*/}" "${_resume[@]}")
((stage <= stop_stage)) || usage_error "--stage $stage is after --stop-stage $stop_stage"
for _name in corpora exp; do # a default is relative to the recipe
  if [[ -v $_name && -n ${!_name} && ${!_name} != /* ]]; then
    printf -v "$_name" %s "$recipe/${!_name}"
  fi
done
cd "$recipe"
if ! ${dry_run:-false}; then
  # shellcheck source=/dev/null
  . "$root/path.sh"
  for _name in INT TERM USR1; do
    # shellcheck disable=SC2064 # the name is wanted as it is now
    trap "_receive $_name" "$_name"
  done
fi

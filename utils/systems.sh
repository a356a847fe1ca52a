# shellcheck shell=bash
# What the systems of a downstream recipe start from, as a sourced part of a run.sh.
#
#   plan_models PREFIX BASELINE SYSTEM...   makes an array of `systems`, by default those of BASELINE and
#       SYSTEM... that `conf` has; sets `encoder`, empty where no system has one, and `begin`, the key=value
#       from which each system starts: the baseline from nothing, `frozen` from the encoder, others from
#       the one before them, in EXP/PREFIX<name>
#
# It reads root, recipe, conf, exp, pretrained and systems.
# shellcheck disable=SC2034,SC2154

plan_models() { # <prefix> <baseline> <system>...
  local _prefix=$1 _baseline=$2 _system _before=""
  shift
  if [[ -z $systems ]]; then
    for _system; do if [[ -f $conf/$_system.yaml ]]; then systems+=" $_system"; fi; done
  fi
  read -ra systems <<<"$systems"
  ((${#systems[@]})) || usage_error "--systems: no configuration in $conf; see: ls $recipe/conf"
  encoder=$pretrained
  if [[ -z $encoder && -f $conf/frozen.yaml ]]; then
    case $conf in
      */mini) encoder=$root/egs/librispeech/exp/mini/pretrain_it3 ;;
      *) if [[ -f $conf/pretrain.yaml ]]; then encoder=$exp/pretrain; else encoder=${conf##*/}; fi ;;
    esac
  fi
  declare -gA begin=()
  for _system in "${systems[@]}"; do
    [[ -f $conf/$_system.yaml ]] || usage_error "--systems: no $conf/$_system.yaml"
    case $_system in
      "$_baseline") begin[$_system]="init=" ;;
      frozen) begin[$_system]="model.encoder=$encoder" ;;
      *) # an earlier call may have trained what it starts from
        begin[$_system]="init=$exp/$_prefix${_before:-$(_preceding "$_system" "$@")}" ;;
    esac
    if _leads_on "$_system" "$_baseline"; then _before=$_system; fi
  done
}

_leads_on() { # <system> <baseline>
  # The baseline stands beside the others, unless it is what they start from.
  [[ $1 != "$2" || ! -f $conf/frozen.yaml ]]
}

_preceding() { # <system> <baseline> <other system>...
  local _wanted=$1 _other _found=""
  shift
  for _other; do
    if [[ $_other == "$_wanted" ]]; then break; fi
    if [[ -f $conf/$_other.yaml ]] && _leads_on "$_other" "$1"; then _found=$_other; fi
  done
  echo "$_found"
}

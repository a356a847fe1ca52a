# shellcheck shell=bash
# Speaker models, their trial lists and their scores, as a sourced part of a run.sh.
#
#   plan_systems        makes arrays of `systems` and `lists`; sets `begin`, the key=value from which
#                       each system starts; `encoder`, empty where no system has one; `names` of the
#                       lists; `speech`, what is trained on; `restrict` and `calibration`
#   score_system NAME   scores the lists with the cosine, with AS-norm and calibrated
#
# They read root, conf, layout, tiny, pretrained, shards, exp, data, trials, corpora and top.
# shellcheck disable=SC2034,SC2154

plan_systems() {
  local _system _before="" _word _file
  if [[ -z $systems ]]; then
    for _system in fbank frozen joint large_margin; do
      if [[ -f $conf/$_system.yaml ]]; then systems+=" $_system"; fi
    done
  fi
  read -ra systems <<<"$systems"
  ((${#systems[@]})) || usage_error "--systems: no configuration in $conf; see: ls $recipe/conf"
  encoder=$pretrained
  if [[ -z $encoder ]]; then
    case $conf in
      */fbank) ;;
      */mini) encoder=$root/egs/librispeech/exp/mini/pretrain_it3 ;;
      *) if [[ -f $conf/pretrain.yaml ]]; then encoder=$exp/pretrain; else encoder=${conf##*/}; fi ;;
    esac
  fi
  declare -gA begin=()
  for _system in "${systems[@]}"; do
    [[ -f $conf/$_system.yaml ]] || usage_error "--systems: no $conf/$_system.yaml"
    case $_system in
      fbank) begin[$_system]="init=" ;;
      frozen) begin[$_system]="model.encoder=$encoder" ;;
      *) # an earlier call may have trained what it starts from
        begin[$_system]="init=$exp/${_before:-$(_stage_before "$_system")}" ;;
    esac
    # The fbank system is a baseline beside the others, unless there are none.
    if [[ $_system != fbank || ! -f $conf/frozen.yaml ]]; then _before=$_system; fi
  done
  if [[ -z $lists ]]; then
    lists="vox1-o vox1-e vox1-h"
    if [[ -f $conf/lists.txt ]]; then lists=$conf/lists.txt; fi
  fi
  read -ra lists <<<"$lists"
  names=()
  for _word in "${lists[@]}"; do
    if [[ -f $_word ]]; then
      while read -r _file; do
        if [[ $_file && $_file != "#"* ]]; then names+=("${_file%%=*}"); fi
      done <"$_word"
    else names+=("${_word%%=*}"); fi
  done
  restrict=() speech=$data/train.jsonl.gz
  if [[ $layout == folder ]]; then restrict=(--restrict) calibration=${calibration:-dev}; fi
  calibration=${calibration:-train}; one_of calibration train dev
  if $shards; then speech=$exp/shards; fi
}

_stage_before() { # <system>
  if [[ $1 == joint ]]; then echo frozen; elif [[ -f $conf/joint.yaml ]]; then echo joint; else echo fbank; fi
}

score_system() { # <system>
  local _from=$exp/embeddings/$1 _to=$exp/scores/$1 _list _score _norm
  _score=(python -m unispeech trials --system "$1")
  _norm=(--mean "$_from/cohort" --cohort "$_from/cohort" --top "$top")
  run "${_score[@]}" --embeddings "$_from/calibration" --trials "$trials/calibration/trials.tsv" "${_norm[@]}" \
    --calibrate-on "$trials/calibration/trials.tsv" --output "$_to/calibration/calibrated"
  for _list in "${names[@]}"; do
    local _these=(--embeddings "$_from/eval" --trials "$trials/$_list/trials.tsv")
    run "${_score[@]}" "${_these[@]}" --mean "$_from/cohort" --output "$_to/$_list/cosine"
    run "${_score[@]}" "${_these[@]}" "${_norm[@]}" --output "$_to/$_list/asnorm"
    run "${_score[@]}" "${_these[@]}" "${_norm[@]}" --calibration "$_to/calibration/calibrated/calibration.json" \
      --output "$_to/$_list/calibrated"
  done
}

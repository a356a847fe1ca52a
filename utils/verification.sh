# shellcheck shell=bash
# Speaker models, their trial lists and their scores, as a sourced part of a run.sh.
#
#   plan_systems        plans the systems (systems.sh); makes an array of `lists`; sets `names` of the
#                       lists; `speech`, what is trained on; `restrict` and `calibration`
#   score_system NAME   scores the lists with the cosine, with AS-norm and calibrated
#
# They read conf, layout, tiny, shards, exp, data, trials, corpora and top.
# shellcheck disable=SC2034,SC2154

plan_systems() {
  local _word _file
  plan_models "" fbank frozen joint large_margin
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

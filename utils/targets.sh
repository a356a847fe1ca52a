# shellcheck shell=bash
# One or several target languages, as a sourced part of a run.sh.
#
#   plan_targets         from source, target and together: `sources` and `targets`; `setting`, such as
#                        many-to-one; `all`, what the names of the targets' sets begin with (nothing
#                        where there is one); `models`, what ends the names of each model's folders;
#                        `transcribed` and `disjoint`, sets as `validate` takes them
#   of_model END         sets `own`, the beginnings of the sets of one model, and `adapted`, what it
#                        is fine-tuned from
#   listed SET...        prints manifests as a value of the configuration
#
# They read exp, data, pretrained, splits and adapt.
# shellcheck disable=SC2034,SC2154

plan_targets() {
  local _sides=(one one) _prefix _names
  read -ra sources <<<"$source"
  read -ra targets <<<"$target"
  ((${#targets[@]})) || usage_error "--target wants a language"
  if ((${#sources[@]} > 1)); then _sides[0]=many; fi
  all=("") models=("")
  if ((${#targets[@]} > 1)); then
    all=("${targets[@]/%/_}")
    if $together; then _sides[1]=many; else models=("${targets[@]/#/_}"); fi
  fi
  setting=${_sides[0]}-to-${_sides[1]} transcribed="" disjoint=()
  for _prefix in "${all[@]}"; do
    _names=${_prefix}train,${_prefix}dev,${_prefix}test transcribed+=$_names,
    if [[ -z $splits ]]; then disjoint+=("$_names"); fi   # published lists are taken as they are
  done
  for _prefix in "${sources[@]}"; do transcribed+=$_prefix-train,$_prefix-dev,; done
  transcribed=${transcribed%,}
}

of_model() { # <end of its names>
  own=("${all[@]}") adapted=$pretrained
  if [[ $1 ]]; then own=("${1#_}_"); fi
  if $adapt; then adapted=$exp/pretrain_continued$1; fi
}

listed() { # <set>...
  local _list="" _set
  for _set; do _list+=",\"$data/$_set.jsonl.gz\""; done
  echo "[${_list#,}]"
}

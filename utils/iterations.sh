# shellcheck shell=bash
# Labels and pre-trainings in turn, as a sourced part of a run.sh: HuBERT's iterations in one go.
#
#   read_iterations WORDS   "mfcc hubert:6 hubert:9" into `steps`; a wrong word ends with exit 2
#   first_labels LABEL_COMMAND   makes the labels of the first word when they need no model
#   iterate TRAIN VALID LABEL_COMMAND -- TRAIN_COMMAND   makes the other labels and all models
#
# They read conf, exp, model, init and the overrides. With init=previous every pre-training after the
# first continues from the weights of the one before; any other init is where the last one starts.
#
# A word says where the labels of one pre-training come from: mfcc, the LAYER of the MODEL that was
# pre-trained before (of a released one in the first place), or none. The next word's MODEL, in the
# end --model, is what is pre-trained on them: NAME.yaml of the conf folder over its pretrain.yaml,
# else conf/NAME/pretrain.yaml, else conf/NAME_base_it<number of the pre-training>/pretrain.yaml.
# shellcheck disable=SC2154

read_iterations() { # <words>
  local _step
  read -ra steps <<<"$1"
  for _step in "${steps[@]}"; do
    [[ $_step =~ ^(mfcc|none|[^:]+:[0-9]+)$ ]] ||
      usage_error "--iterations: '$_step' is not mfcc, none or MODEL:LAYER"
  done
}

first_labels() { # <label command>
  local _file
  if [[ ${steps[0]} == mfcc ]]; then
    _file=$(first_of "$conf/labels.yaml" conf/wavlm_base/labels.yaml)
    run "$@" --config "$_file" --output "$exp/data/labels/it1" "${overrides[@]}"
  fi
}

iterate() { # <training manifest> <validation manifest> <label command> -- <train command>
  local _data=(data.train="$1" data.valid="$2") _label=() _i _from _before _next _file _base _extra
  shift 2
  while [[ $1 != -- ]]; do _label+=("$1"); shift; done
  shift
  for ((_i = 1; _i <= ${#steps[@]}; _i++)); do
    _from=${steps[_i - 1]} _next=${steps[_i]:-$model} _extra=() _base=()
    _before=$exp/pretrain_it$((_i - 1))
    if ((_i == 1)); then _before=${_from%:*}; fi
    if [[ $_from == *:* ]]; then
      _file=$(first_of "$conf/labels_layer.yaml" conf/wavlm_base/labels_layer.yaml)
      run "${_label[@]}" --config "$_file" --output "$exp/data/labels/it$_i" \
        checkpoint="$_before" layer="${_from##*:}"
    fi
    if [[ $_from != none ]]; then _extra=(data.labels="$exp/data/labels/it$_i"); fi
    if [[ $init == previous ]]; then
      if ((_i > 1)); then _extra+=(init="$_before"); fi
    elif ((_i == ${#steps[@]})) && [[ $init ]]; then _extra+=(init="$init"); fi
    _next=${_next%:*}
    _file=$(first_of "$conf/$_next.yaml" "conf/$_next/pretrain.yaml" "conf/${_next}_base_it$_i/pretrain.yaml")
    if [[ $_file == "$conf"/* && $_next != pretrain ]]; then _base=(--config "$conf/pretrain.yaml"); fi
    run "$@" pretrain "${_base[@]}" --config "$_file" --output "$exp/pretrain_it$_i" \
      "${_data[@]}" "${_extra[@]}" "${overrides[@]}"
  done
}

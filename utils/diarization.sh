# shellcheck shell=bash
# Diarization models, their data and their scores, as a sourced part of a run.sh.
#
#   plan_diarization    makes arrays of `systems`, `sets` and `counts`; sets `begin`, the key=value from
#                       which each system starts, and `encoder`, empty where no system has one
#   plan_data           sets the commands of the stages that prepare data, `prepared` and `checked`
#                       (their names), and `disjoint`, the sets that share no speakers
#   read_by SYSTEM      sets `read`: the key=value words with what a system is trained on
#   tune SYSTEM                          writes EXP/rttm/SYSTEM/tuned/tuned.json: distance, threshold
#                                        and median, chosen on part 1 of CALLHOME, or on the set dev
#   diarize SYSTEM SET COUNT             writes EXP/rttm/SYSTEM/SET/COUNT
#   score_diarization SYSTEM SET COUNT   writes EXP/der/SYSTEM/SET/COUNT
#
# They read root, recipe, conf, layout, corpora, exp, data, speech, audio, parts, segments, shortest,
# simulate, augment, musan, rirs, pretrained, tuned, collar, overlap,
# device and nj.
# shellcheck disable=SC2034,SC2154

plan_diarization() {
  local _system _before=""
  if [[ -z $systems ]]; then
    for _system in fbank frozen joint adapted; do
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
        begin[$_system]="init=$exp/diarization_${_before:-$(_stage_before "$_system")}" ;;
    esac
    # The fbank system is a baseline beside the others, unless there are none.
    if [[ $_system != fbank || ! -f $conf/frozen.yaml ]]; then _before=$_system; fi
  done
  if [[ -z $sets ]]; then
    sets="test"
    if [[ -f $conf/evaluate.txt ]]; then sets=$(grep -v '^#' "$conf/evaluate.txt" | tr '\n' ' '); fi
  fi
  read -ra sets <<<"$sets"
  read -ra counts <<<"$counts"
  for _system in "${counts[@]}"; do one_of _system estimated oracle; done
}

_stage_before() { # <system>
  if [[ $1 == joint ]]; then echo frozen; elif [[ -f $conf/joint.yaml ]]; then echo joint
  elif [[ -f $conf/frozen.yaml ]]; then echo frozen; else echo fbank; fi
}

plan_data() {
  local _from=$exp/calls _prefix=""
  conversations=(python "$root/local/prepare_callhome.py" --corpora "$corpora" --parts "$parts" --audio "$audio/callhome" --output "$data" --jobs "$nj")
  calls=(python "$root/local/prepare_telephone.py" --corpora "$corpora" --audio "$audio" --output "$exp/calls" --jobs "$nj")
  prepared=(conversations calls) disjoint=""
  if [[ $layout == folder ]]; then
    conversations=(python "$root/local/prepare_folder.py" --sets "$conf/sets.yaml" --corpora "$corpora" --output "$data")
    prepared=(conversations) _from=$data _prefix=speech_ disjoint=speech_train,speech_dev,speech_test
  fi
  divide=(python "$root/local/segment_speech.py" --sets)
  divide+=(train="$_from/${_prefix}train.jsonl.gz" dev="$_from/${_prefix}dev.jsonl.gz")
  if [[ $layout == folder ]]; then divide+=(test="$_from/${_prefix}test.jsonl.gz"); fi
  divide+=(--output "$speech" --shortest "$shortest" ${segments:+--segments "$segments"} --jobs "$nj")
  augmentation=(python "$root/local/prepare_augmentation.py" --musan "$musan" --rirs "$rirs" --output "$exp/augmentation")
  converse=(python "$root/local/prepare_conversations.py" --config "$conf/conversations.yaml")
  if [[ $simulate == stored ]]; then converse+=(--config "$conf/stored.yaml"); fi
  converse+=(--speech "$speech" --corpora "$corpora" --audio "$exp/audio/simulated" --output "$data" --jobs "$nj")
  checked=("${prepared[@]}") noises=()
  if $augment; then
    checked+=(augmentation)
    converse+=(--noise "$exp/augmentation/noise.jsonl.gz" --rir "$exp/augmentation/rir.jsonl.gz")
    noises=(data.noise="$exp/augmentation/noise.jsonl.gz" data.rir="$exp/augmentation/rir.jsonl.gz")
  fi
}

read_by() { # <system>
  if [[ $1 == adapted ]]; then read=(data.train="$data/adapt.jsonl.gz")
  elif [[ $simulate == stored ]]; then read=(data.train="$data/train.jsonl.gz" data.simulate=null)
  else read=(data.train="$speech/train.jsonl.gz" "${noises[@]}"); fi
}

_diarize() { # <system> <set> <output> <option>...
  local _more=()
  if [[ -f $conf/diarize.yaml ]]; then _more+=(--config "$conf/diarize.yaml"); fi
  run python -m unispeech diarize --model "$exp/diarization_$1" --wavs "$data/$2.jsonl.gz" \
    --output "$exp/rttm/$1/$3" --device "$device" "${_more[@]}" "${@:4}"
}

tune() { # <system>
  local _set=adapt
  if [[ $layout == folder ]]; then _set=dev; fi
  _diarize "$1" "$_set" tuned --tune "$data/$_set.rttm" --collar "$collar" --no-picture
}

diarize() { # <system> <set> <estimated|oracle>
  local _more=()
  if $tuned; then _more+=(--tuned "$exp/rttm/$1/tuned/tuned.json"); fi
  if [[ $3 == oracle ]]; then _more+=(--oracle "$data/$2.rttm"); fi
  _diarize "$1" "$2" "$2/$3" "${_more[@]}"
}

score_diarization() { # <system> <set> <estimated|oracle>
  local _more=()
  if [[ -f $data/$2.uem ]]; then _more+=(--uem "$data/$2.uem"); fi
  run python -m unispeech der --reference "$data/$2.rttm" --hypothesis "$exp/rttm/$1/$2/$3/hyp.rttm" \
    --collar "$collar" --overlap "$overlap" --output "$exp/der/$1/$2/$3" "${_more[@]}"
}

# shellcheck shell=bash
# Diarization models, their data and their scores, as a sourced part of a run.sh.
#
#   plan_diarization    plans the systems (systems.sh); makes arrays of `sets` and `counts`
#   plan_data           sets the commands of the stages that prepare data, `prepared` and `checked`
#                       (their names), and `disjoint`, the sets that share no speakers
#   read_by SYSTEM      sets `read`: the key=value words with what a system is trained on
#   tune SYSTEM                          writes EXP/rttm/SYSTEM/tuned/tuned.json: distance, threshold
#                                        and median, chosen on part 1 of CALLHOME, or on the set dev
#   diarize SYSTEM SET COUNT             writes EXP/rttm/SYSTEM/SET/COUNT
#   score_diarization SYSTEM SET COUNT   writes EXP/der/SYSTEM/SET/COUNT
#
# They read root, conf, layout, corpora, exp, data, speech, audio, parts, segments, shortest,
# simulate, augment, musan, rirs, tuned, collar, overlap,
# device and nj.
# shellcheck disable=SC2034,SC2154

plan_diarization() {
  local _count
  plan_models diarization_ fbank frozen joint adapted
  if [[ -z $sets ]]; then
    sets="test"
    if [[ -f $conf/evaluate.txt ]]; then sets=$(grep -v '^#' "$conf/evaluate.txt" | tr '\n' ' '); fi
  fi
  read -ra sets <<<"$sets"
  read -ra counts <<<"$counts"
  for _count in "${counts[@]}"; do one_of _count estimated oracle; done
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

# shellcheck shell=bash
# Separation models, their streams and their scores, as a sourced part of a run.sh.
#
#   plan_separation         plans the systems (systems.sh); makes arrays of `inputs` and `tests`; sets
#                           `recogniser`, `lang` and `scales`; `speech`, what is trained on; `heard_in`,
#                           noises and rooms of the training; `rooms`; `untranscribed` and `disjoint`,
#                           sets as their commands take them
#   converse                simulates conversations of the speakers of the test sets
#   train_recogniser        fine-tunes a recogniser on the encoder
#   for_each_system STEP    calls STEP SYSTEM SET INPUT for all of them, also for the system `unprocessed`
#   separate_set, score_set   such steps
#
# They read root, conf, layout, recogniser, lang, scales, channels, method, alone, musan, rirs, stored, quality,
# device, stop_stage, exp, data, sets, simulate, train.
# shellcheck disable=SC2034,SC2154

plan_separation() {
  plan_models "" magnitude frozen joint
  read -ra inputs <<<"$inputs"; read -ra tests <<<"$tests"
  _among --inputs utterance continuous -- "${inputs[@]}"
  _among --tests dev test -- "${tests[@]}"
  if [[ ($musan && -z $rirs) || (-z $musan && $rirs) ]]; then usage_error "--musan and --rirs go together"; fi
  if [[ $method == mvdr && $channels == 1 ]]; then usage_error "--method mvdr needs --channels 7"; fi
  if [[ -z $recogniser ]]; then
    case $conf in
      */mini) recogniser=$root/egs/librispeech/exp/mini/finetune
        if [[ -z $lang ]]; then
          lang=$root/egs/librispeech/exp/mini/lang
          scales=${scales:-$root/egs/librispeech/exp/mini/infer/pretrained/dev/graph/tune.json}
        fi ;;
      *) recogniser=$exp/finetune
        [[ -f $conf/finetune.yaml ]] || ((stop_stage < 5)) || usage_error "--recogniser is missing: a training of finetune, or a CTC model of Hugging Face" ;;
    esac
  fi
  if [[ -z $rooms ]]; then
    case $conf in */tiny) rooms=60 ;; */mini) rooms=400 ;; *) rooms=20000 ;; esac
  fi
  heard_in=(data.rir="$exp/rooms/rir.jsonl.gz") speech=$data/train.jsonl.gz disjoint=train,dev untranscribed=()
  if [[ $musan ]]; then heard_in=(data.rir="$exp/augmentation/rir.jsonl.gz" data.noise="$exp/augmentation/noise.jsonl.gz"); fi
  if [[ $scales && -z $lang ]]; then usage_error "--scales are of a graph: they go with --lang"; fi
  if ((stored)); then speech=$exp/pairs/train/pairs.jsonl.gz; fi
  if [[ $layout == folder ]]; then disjoint+=,test; fi
  if [[ ! -f $conf/finetune.yaml ]]; then untranscribed=(--untranscribed train dev); fi
}

_among() { # <option> <allowed>... -- <word>...
  local _option=$1 _allowed=" " _word
  shift
  while [[ $1 != -- ]]; do _allowed+="$1 "; shift; done
  shift
  (($#)) || usage_error "$_option wants some of$_allowed"
  for _word; do [[ $_allowed == *" $_word "* ]] || usage_error "$_option wants some of$_allowed, found '$_word'"; done
}

converse() {
  local _set
  for _set in "${tests[@]}"; do
    run "${simulate[@]}" conversations --seed 3 --manifest "$data/$_set.jsonl.gz" --output "$sets/$_set"
  done
}

train_recogniser() {
  run "${train[@]}" finetune --config "$conf/finetune.yaml" --output "$exp/finetune" init="$encoder" \
    data.train="$data/train.jsonl.gz" data.valid="$data/dev.jsonl.gz" data.tokens="$exp/lang/tokens.txt"
}

for_each_system() { # <step>
  local _system _set _input
  for _set in "${tests[@]}"; do for _input in "${inputs[@]}"; do for _system in unprocessed "${systems[@]}"; do
    "$1" "$_system" "$_set" "$_input"
  done; done; done
}

separate_set() { # <system> <set> <input>
  local _cuts=$sets/$2/$3.jsonl.gz _streams=$exp/streams/$1/$2/$3 _heard=$exp/infer/$1/$2/$3 _more=() _decode=(--method greedy)
  if [[ $1 != unprocessed ]]; then
    _more=(${alone:+--alone "$alone"})
    # Utterances that were cut out are seen at once.
    if [[ $3 == utterance ]]; then _more+=(--whole); fi
    run python -m unispeech separate --model "$exp/$1" --wavs "$_cuts" --output "$_streams" --method "$method" --device "$device" "${_more[@]}"
    _cuts=$_streams/streams.jsonl.gz
    # Of continuous input, what is between the pieces in which somebody speaks is not heard.
    if [[ $3 == continuous ]]; then _more=(--pieces); else _more=(); fi
  elif [[ $3 == continuous ]]; then _more=(--window 30); fi
  run python -m unispeech emit --model "$recogniser" --output "$_heard" --device "$device" "${_more[@]}" "$_cuts"
  if [[ $lang ]]; then _decode=(--method graph --lang "$lang" ${scales:+--tuned "$scales"}); fi
  run python -m unispeech decode "${_decode[@]}" --emissions "$_heard" --output "$_heard/${_decode[1]}"
}

score_set() { # <system> <set> <input>
  local _method=greedy _more=()
  if [[ $lang ]]; then _method=graph; fi
  if [[ $1 != unprocessed ]]; then _more=(--streams "$exp/streams/$1/$2/$3"); fi
  if $quality; then _more+=(--quality); fi
  run python -m unispeech separated --reference "$sets/$2/$3.jsonl.gz" --hypothesis "$exp/infer/$1/$2/$3/$_method" --evaluation "$3" \
    --system "$1" --condition "$2" --fold-case "${_more[@]}" --output "$exp/wer_streams/$1/$2/$3"
}

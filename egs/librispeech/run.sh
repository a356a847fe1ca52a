#!/usr/bin/env bash
# Recognition on LibriSpeech, or on any speech of your own: pre-train a WavLM, fine-tune it with
# CTC, decode, score, report. Finished steps are skipped, so the same command continues.
#
#   bash egs/librispeech/run.sh --tiny true
#   bash egs/librispeech/run.sh --corpora /data/corpora --ngpu 8 --iterations "mfcc hubert:6 hubert:9" --model wavlm_base
#   bash egs/librispeech/run.sh --corpora /data/corpora --pretrained wavlm_large --budget 10h --arpa FILE
#   bash egs/librispeech/run.sh --corpora /data/corpora --layout folder --conf conf/mini
set -euo pipefail
# options
stage=0                  # first stage to run
stop_stage=7             # last stage to run
tiny=false               # true: a small model on a small corpus, in minutes on two cores
corpora=                 # folder of the corpora (with --tiny true: synthesised when not given)
layout=librispeech       # librispeech, or folder: the tables and Kaldi folders of conf's sets.yaml
conf=                    # folder of the configurations (default: conf/wavlm_base, or conf/tiny)
exp=                     # experiment folder (default: exp/<name of the conf folder or of --pretrained>)
pretrain_parts="train-clean-100+train-clean-360+train-other-500"   # audio to pre-train on
budget=100h              # transcribed speech to fine-tune on, and its settings: 10min, 1h, 10h, 100h, 960h
train_parts=             # other parts than the budget's, e.g. 10min-3 or train-clean-100+10h
dev="dev-other"            # set for validation and for tuning the language-model scale
tests="test-clean test-other"   # sets to report
iterations=mfcc          # labels of each pre-training: mfcc, then MODEL:LAYER of the one before; or none
model=pretrain           # what is pre-trained last: a file of the conf folder, or a folder of conf/
init=                    # model to continue pre-training from; previous: the one of the iteration before
pretrained=              # released or own model to fine-tune as it is, instead of pre-training one
scratch=false            # true: also fine-tune the same network from random weights, as a control
units=letters            # what is recognised: letters, bpe (pieces of words) or phones
pieces=1000              # number of pieces with --units bpe
lexicon=                 # pronunciations with --units phones (default: those of espeak-ng)
arpa=                    # language model to use as it is (default: estimated on the training text)
order=3                  # order of the language model that is estimated
rescore_arpa=            # larger language model to rescore lattices with, e.g. the official 4-gram
rescore_order=0          # order of one that is estimated for that (0: none)
lm=none                  # transformer: train one and rescore n-best lists; or a trained one's place
lm_text=                 # text to train it on (default: the training text)
backend=auto             # decoder: auto, kaldi, k2 or flashlight
ngpu=0                   # GPUs of this machine to train on (0: all there are)
nproc=2                  # processes that train where there is no GPU; each gets its share of cores
nodes=1                  # machines to train on; start this script on each
master=                  # HOST:PORT of the first machine, where there are several
nj=2                     # processes that prepare data
name=LibriSpeech         # what the results call the data
paper_model=             # row of the papers that is printed beside ours (default: by the model)
publish=false            # true: write the rows into RESULTS.md of this recipe
dry_run=false            # true: print the commands, run none
# end of options
# shellcheck source=../../utils/recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
. "$root/utils/iterations.sh"
. "$root/utils/training.sh"
. "$root/utils/decoding.sh"

one_of budget 10min 1h 10h 100h 960h; one_of units letters bpe phones; one_of layout librispeech folder; one_of backend auto kaldi k2 flashlight
if $tiny; then conf=${conf:-conf/tiny} pretrain_parts=train-clean-100 budget=100h dev=dev-clean tests=test-clean; fi
if [[ $layout == folder ]]; then dev=dev tests=test; fi
conf=${conf:-conf/wavlm_base}; place=${pretrained:-$conf} exp=${exp:-$recipe/exp/${place##*/}}
tuned=${pretrained:-$model}; if [[ $tuned == pretrain ]]; then tuned=${conf##*/}; fi   # names preset and paper row
paper=(--model "$tuned" ${paper_model:+--paper-model "$paper_model"} --paper-hours "${budget%h}")
if $tiny || [[ $layout == folder || $budget == 10min || $train_parts ]]; then paper=(); fi; read_iterations "$iterations"
data=$exp/data lang=$exp/lang synthesise=false manifests=$exp/data
if [[ $units == phones ]]; then manifests=$exp/manifests; fi   # the phones are added in stage 2
if $tiny && [[ -z $corpora ]]; then corpora=$exp/corpus name="synthesised speech" synthesise=true; fi
read -ra tests <<<"$tests"; held_out=$(IFS=,; echo "train,$dev,${tests[*]}")
audio=(--untranscribed pretrain --sets "pretrain=$pretrain_parts"); if [[ $pretrained ]]; then audio=(--sets); fi
prepare=(python "$root/local/prepare_librispeech.py" --jobs "$nj" "${audio[@]}" "train=${train_parts:-$budget}" "$dev" "${tests[@]}")
if [[ $layout == folder ]]; then prepare=(python "$root/local/prepare_folder.py" --sets "$conf/sets.yaml"); fi
prepare+=(--corpora "$corpora" --output "$manifests")
language=(--units "$units" --pieces "$pieces" --order "$order" --rescore-order "$rescore_order" ${lexicon:+--lexicon "$lexicon"} ${arpa:+--arpa "$arpa"})
label=(python -m unispeech label --manifests "$data/pretrain.jsonl.gz" "$data/$dev.jsonl.gz")
ctm=$corpora/LibriSpeech/alignments/phones.ctm   # where there is one, the labels are measured
if $synthesise || [[ -f $ctm ]]; then label+=(--alignment "$ctm"); fi
systems; launcher; plan_decoding

if stage 0 "corpora: synthesise the tiny one, or check what is there"; then
  if $synthesise; then run python "$root/local/synthesise_librispeech.py" --output "$corpora" --jobs "$nj"; fi
  run "${prepare[@]}" --check
fi

if stage 1 "manifests: lhotse cuts, checked"; then
  run "${prepare[@]}"
  run python -m unispeech validate "$manifests" --transcribed "$held_out" --disjoint-speakers "$held_out" --jobs "$nj"
fi

if stage 2 "targets: frame labels; tokens, lexicon, language model, graph"; then
  run python "$root/local/prepare_lang.py" --text "$manifests/train.jsonl.gz" --dev "$manifests/$dev.jsonl.gz" --output "$lang" "${language[@]}"
  if [[ $units == phones ]]; then run python "$root/local/add_phones.py" --manifests "$manifests" --lexicon "$lang/lexicon.txt" --output "$data"; fi
  if [[ -z $pretrained ]]; then first_labels "${label[@]}"; fi
fi

if stage 3 "pre-train: as often as --iterations says, with labels of the model before"; then
  if [[ -z $pretrained ]]; then iterate "$data/pretrain.jsonl.gz" "$data/$dev.jsonl.gz" "${label[@]}" -- "${train[@]}"; fi
  train_lm "${lm_text:-$data/train.jsonl.gz}" "$data/$dev.jsonl.gz"
fi

if stage 4 "fine-tune: CTC on letters, pieces of words or phones"; then
  file=$(preset "$tuned" "$budget")
  for system in "${!folder[@]}"; do
    run "${train[@]}" finetune --config "$file" --output "${folder[$system]}" random_init="${random[$system]}" \
      init="${pretrained:-$exp/pretrain_it${#steps[@]}}" data.train="$data/train.jsonl.gz" data.valid="$data/$dev.jsonl.gz" \
      data.tokens="$lang/tokens.txt" data.units="$units" "${overrides[@]}"
  done
fi

if stage 5 "infer: emissions, greedy and graph decoding, rescoring"; then
  for system in "${!folder[@]}"; do for set in "$dev" "${tests[@]}"; do decode_set "${folder[$system]}" "$system" "$set"; done; done
fi

if stage 6 "score: word error rate"; then
  for set in "$dev" "${tests[@]}"; do
    decoded "$set" "${!folder[@]}"
    run python -m unispeech score --reference "$data/$set.jsonl.gz" --hypothesis "${texts[@]}"
  done
fi

if stage 7 "report: RESULTS row, figures, HTML"; then
  if $publish; then paper+=(--publish "$recipe"); fi
  run python -m unispeech report --exp "$exp" --recipe librispeech --data-name "$name" --command "$command_line" "${paper[@]}"
fi

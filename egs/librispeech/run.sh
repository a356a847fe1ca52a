#!/usr/bin/env bash
# Recognition on LibriSpeech, or on any speech of your own: pre-train a WavLM, fine-tune it with
# CTC, decode, score, report. Finished steps are skipped, so the same command continues.
#
#   bash egs/librispeech/run.sh --tiny true
#   bash egs/librispeech/run.sh --corpora /data/corpora --ngpu 8 --iterations "mfcc hubert:6 hubert:9" --model wavlm_base
#   bash egs/librispeech/run.sh --corpora /data/corpora --layout folder --conf conf/mini
set -euo pipefail
# options
stage=0                  # first stage to run
stop_stage=7             # last stage to run
tiny=false               # true: a small model on a small corpus, in minutes on two cores
corpora=                 # folder of the corpora (with --tiny true: synthesised when not given)
layout=librispeech       # librispeech, or folder: the tables and Kaldi folders of conf's sets.yaml
conf=                    # folder of the configurations (default: conf/wavlm_base, or conf/tiny)
exp=                     # experiment folder (default: exp/<name of the conf folder>)
pretrain_parts="train-clean-100+train-clean-360+train-other-500"   # audio to pre-train on
train_parts="train-clean-100"   # transcribed speech to fine-tune on
dev="dev-other"            # set for validation and for tuning the language-model scale
tests="test-clean test-other"   # sets to report
iterations=mfcc          # labels of each pre-training: mfcc, then MODEL:LAYER of the one before; or none
model=pretrain           # what is pre-trained last: a file of the conf folder, or a folder of conf/
init=                    # released or own model to continue pre-training from
scratch=false            # true: also fine-tune the same network from random weights, as a control
arpa=                    # language model to use as it is (default: estimated on the training text)
order=3                  # order of the language model that is estimated
backend=auto             # decoder: auto, kaldi or k2
ngpu=0                   # GPUs of this machine to train on (0: all there are)
nproc=2                  # processes that train where there is no GPU; each gets its share of cores
nodes=1                  # machines to train on; start this script on each
master=                  # HOST:PORT of the first machine, where there are several
nj=2                     # processes that prepare data
name=LibriSpeech         # what the results call the data
paper_model="WavLM Base"   # row of the paper that is printed beside ours
paper_hours=100          # hours of transcribed speech of that row
publish=false            # true: write the rows into RESULTS.md of this recipe
dry_run=false            # true: print the commands, run none
# end of options

# shellcheck source=../../utils/recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
. "$root/utils/iterations.sh"

paper=(--paper-model "$paper_model" --paper-hours "$paper_hours")
if $tiny; then conf=${conf:-conf/tiny} pretrain_parts=train-clean-100 dev=dev-clean tests=test-clean paper=(); fi
if [[ $layout == folder ]]; then dev=dev tests=test paper=(); fi
conf=${conf:-conf/wavlm_base} shared=conf/wavlm_base
if [[ $model$conf == *_large* ]]; then shared=conf/wavlm_large; fi
read_iterations "$iterations"
exp=${exp:-$recipe/exp/${conf##*/}}
data=$exp/data lang=$exp/lang synthesise=false
if $tiny && [[ -z $corpora ]]; then corpora=$exp/corpus name="synthesised speech" synthesise=true; fi
read -ra tests <<<"$tests"
held_out=$(IFS=,; echo "train,$dev,${tests[*]}")
case $layout in
  folder) prepare=(python "$root/local/prepare_folder.py" --sets "$conf/sets.yaml") ;;
  *) prepare=(python "$root/local/prepare_librispeech.py" --untranscribed pretrain --jobs "$nj"
    --sets "pretrain=$pretrain_parts" "train=$train_parts" "$dev=$dev")
    for set in "${tests[@]}"; do prepare+=("$set=$set"); done ;;
esac
prepare+=(--corpora "$corpora" --output "$data")
label=(python -m unispeech label --manifests "$data/pretrain.jsonl.gz" "$data/$dev.jsonl.gz")
train=(bash "$root/utils/launch.sh" --cpu-nproc "$nproc" --nodes "$nodes" ${master:+--master "$master"})
if ((ngpu)); then train+=(--nproc "$ngpu"); fi
ctm=$corpora/LibriSpeech/alignments/phones.ctm   # where there is one, the labels are measured
if $synthesise || [[ -f $ctm ]]; then label+=(--alignment "$ctm"); fi
declare -A folder=([pretrained]=$exp/finetune) random=([pretrained]=false [scratch]=true)
if $scratch; then folder[scratch]=$exp/finetune_scratch; fi

if stage 0 "corpora: synthesise the tiny one, or check what is there"; then
  if $synthesise; then run python "$root/local/synthesise_librispeech.py" --output "$corpora" --jobs "$nj"; fi
  run "${prepare[@]}" --check
fi

if stage 1 "manifests: lhotse cuts, checked"; then
  run "${prepare[@]}"
  run python -m unispeech validate "$data" --transcribed "$held_out" --disjoint-speakers "$held_out" --jobs "$nj"
fi

if stage 2 "targets: frame labels; tokens, lexicon, language model, graph"; then
  first_labels "${label[@]}"
  run python "$root/local/prepare_lang.py" --text "$data/train.jsonl.gz" --dev "$data/$dev.jsonl.gz" \
    --output "$lang" --order "$order" ${arpa:+--arpa "$arpa"}
fi

if stage 3 "pre-train: as often as --iterations says, with labels of the model before"; then
  iterate "$data/pretrain.jsonl.gz" "$data/$dev.jsonl.gz" "${label[@]}" -- "${train[@]}"
fi

if stage 4 "fine-tune: CTC on letters"; then
  for system in "${!folder[@]}"; do
    run "${train[@]}" finetune --config "$(first_of "$conf"/finetune.yaml "$shared"/finetune.yaml)" --output "${folder[$system]}" random_init="${random[$system]}" \
      init="$exp/pretrain_it${#steps[@]}" data.train="$data/train.jsonl.gz" data.valid="$data/$dev.jsonl.gz" \
      data.tokens="$lang/tokens.txt" "${overrides[@]}"
  done
fi

if stage 5 "infer: emissions, greedy and graph decoding"; then
  for system in "${!folder[@]}"; do
    for set in "$dev" "${tests[@]}"; do
      out=$exp/infer/$system/$set tune=(--tuned "$exp/infer/$system/$dev/graph/tune.json")
      if [[ $set == "$dev" ]]; then tune=(--tune-emissions "$out" --tune-reference "$data/$dev.jsonl.gz"); fi
      run python -m unispeech emit --model "${folder[$system]}" --output "$out" "$data/$set.jsonl.gz"
      run python -m unispeech decode --method greedy --emissions "$out" --output "$out/greedy"
      run python -m unispeech decode --method graph --emissions "$out" --output "$out/graph" --lang "$lang" \
        --backend "$backend" --config "$(first_of "$conf"/decode.yaml "$shared"/decode.yaml)" "${tune[@]}" "${overrides[@]}"
    done
  done
fi

if stage 6 "score: word error rate"; then
  for set in "$dev" "${tests[@]}"; do
    run python -m unispeech score --reference "$data/$set.jsonl.gz" --hypothesis "$exp"/infer/*/"$set"/{greedy,graph}
  done
fi

if stage 7 "report: RESULTS row, figures, HTML"; then
  if $publish; then paper+=(--publish "$recipe"); fi
  run python -m unispeech report --exp "$exp" --recipe librispeech --data-name "$name" --command "$command_line" "${paper[@]}"
fi

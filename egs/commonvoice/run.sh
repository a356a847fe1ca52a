#!/usr/bin/env bash
# Phones of languages with little transcribed speech, on Common Voice, as UniSpeech: pre-train on
# transcribed speech of source languages, go on with audio of the target language, fine-tune with
# CTC on an hour of it, decode, score, report. Finished steps are skipped, so the same command
# continues.
#
#   bash egs/commonvoice/run.sh --tiny true
#   bash egs/commonvoice/run.sh --corpora /data/cv-corpus-5.1-2020-06-22 --target ky --ngpu 8
#   bash egs/commonvoice/run.sh --corpora /data/cv --source "en es fr it" --target "ky nl ru sv tt" --splits /data/lists
set -euo pipefail
# options
stage=0                  # first stage to run
stop_stage=7             # last stage to run
tiny=false               # true: a small model on a small corpus, in minutes on two cores
corpora=                 # folder of the releases (with --tiny true: synthesised when not given)
source=                  # languages to pre-train on, e.g. "en es fr it" (default: en; tiny: "en fr it")
target=es                # languages to recognise, some of es fr it ky nl ru sv tt, or en
together=false           # true: one fine-tuning on all target languages, instead of one each
vocabulary=              # phones of several languages: separate, or shared (default: separate; tiny: shared)
splits=                  # folder of published lists, SPLITS/<target>/{train,val,test}* (default: drawn)
adapt=true               # true: go on with audio of the target language before fine-tuning ("+")
joint=false              # true: audio of the target beside the sources in one training instead ("+")
init=                    # model to use instead of pre-training on the source languages
scratch=false            # true: also fine-tune the same network from random weights, as a control
conf=                    # folder of the configurations (default: conf/unispeech_large, or conf/tiny)
exp=                     # experiment folder (default: exp/<name of the conf folder>_<source>_<target>)
audio=                   # folder of the decoded clips, for all experiments (default: exp/audio)
ngpu=0                   # GPUs of this machine to train on (0: all there are)
nproc=2                  # processes that train where there is no GPU; each gets its share of cores
nodes=1                  # machines to train on; start this script on each
master=                  # HOST:PORT of the first machine, where there are several
nj=2                     # processes that prepare data
name="Common Voice"      # what the results call the data
paper_model=             # row of the paper that is printed beside ours (default: UniSpeech-L, + with adapt)
publish=false            # true: write the rows into RESULTS.md of this recipe
dry_run=false            # true: print the commands, run none
# end of options
# shellcheck source=../../utils/recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
. "$root/utils/training.sh"
. "$root/utils/decoding.sh"
. "$root/utils/targets.sh"

if [[ -z $paper_model ]]; then paper_model=UniSpeech-L; if $adapt || $joint; then paper_model+="+"; fi; fi
if $joint; then adapt=false; fi; synthesise=false methods=(greedy)
if $tiny; then vocabulary=${vocabulary:-shared}
  conf=${conf:-conf/tiny} exp=${exp:-$recipe/exp/tiny} audio=${audio:-$exp/audio} source=${source:-en fr it}
  if [[ -z $corpora ]]; then corpora=$exp/corpus name="synthesised speech," synthesise=true; fi
fi
conf=${conf:-conf/unispeech_large} source=${source:-en} audio=${audio:-$recipe/exp/audio}
exp=${exp:-$recipe/exp/${conf##*/}_${source// /-}_${target// /-}}
vocabulary=${vocabulary:-separate}; one_of vocabulary separate shared
manifests=$exp/manifests data=$exp/data lang=$exp/lang pretrained=${init:-$exp/pretrain}
plan_targets
paper=(--paper-model "$paper_model" --paper-hours 1)   # its numbers are of its own splits
if $tiny || [[ -z $splits || $target == en || $setting != one-to-one ]]; then paper=(); fi
languages=(--source "${sources[@]}" --target "${targets[@]}")
prepare=(python "$root/local/prepare_commonvoice.py" --corpora "$corpora" --audio "$audio" --output "$manifests"
  "${languages[@]}" --jobs "$nj" ${splits:+--splits "$splits"})
if $together; then languages+=(--together); fi; systems; launcher

if stage 0 "corpora: synthesise the tiny one, or check what is there"; then
  if $synthesise; then run python "$root/local/synthesise_commonvoice.py" --output "$corpora" --jobs "$nj"; fi
  run "${prepare[@]}" --check
fi

if stage 1 "manifests: clips decoded once, lhotse cuts, checked"; then
  run "${prepare[@]}"
  run python -m unispeech validate "$manifests" --transcribed "$transcribed" --jobs "$nj"
  for own in "${disjoint[@]}"; do run python -m unispeech validate "$manifests" --read-audio false --disjoint-speakers "$own"; done
fi

if stage 2 "targets: phones, vocabularies"; then
  run python "$root/local/phonemise.py" --manifests "$manifests" --output "$data" --lang "$lang" \
    "${languages[@]}" --vocabulary "$vocabulary" --jobs "$nj"
fi

if stage 3 "pre-train: CTC and contrast on the sources, contrast on audio of the target"; then
  beside=(); if $joint; then beside=(data.unlabelled="$(listed "${all[@]/%/pretrain}")"); fi
  if [[ -z $init ]]; then
    run "${train[@]}" pretrain --config "$conf/pretrain.yaml" ${beside:+--config "$conf/joint.yaml"} --output "$pretrained" \
      data.train="$(listed "${sources[@]/%/-train}")" data.valid="$(listed "${sources[@]/%/-dev}")" \
      data.tokens="$lang/source/tokens.txt" data.units=phones "${beside[@]}" "${overrides[@]}"
  fi
  for one in "${models[@]}"; do of_model "$one"; $adapt || break
    run "${train[@]}" pretrain --config "$conf/continue.yaml" --output "$adapted" init="$pretrained" \
      data.train="$(listed "${own[@]/%/pretrain}")" data.valid="$(listed "${own[@]/%/dev}")" "${overrides[@]}"
  done
fi

if stage 4 "fine-tune: CTC on phones"; then
  for one in "${models[@]}"; do of_model "$one"
    for system in "${!folder[@]}"; do
      run "${train[@]}" finetune --config "$conf/finetune.yaml" --output "${folder[$system]}$one" random_init="${random[$system]}" \
        init="$adapted" data.train="$(listed "${own[@]/%/train}")" data.valid="$(listed "${own[@]/%/dev}")" \
        data.tokens="$lang/target$one/tokens.txt" data.units=phones "${overrides[@]}"
    done
  done
fi

if stage 5 "infer: emissions, greedy decoding"; then
  for one in "${models[@]}"; do of_model "$one"
    for system in "${!folder[@]}"; do
      for set in "${own[@]/%/dev}" "${own[@]/%/test}"; do decode_set "${folder[$system]}$one" "$system" "$set"; done
    done
  done
fi

if stage 6 "score: phone error rate"; then
  for set in "${all[@]/%/dev}" "${all[@]/%/test}"; do
    run python -m unispeech score --reference "$data/$set.jsonl.gz" --hypothesis "$exp"/infer/*/"$set"/greedy
  done
fi

if stage 7 "report: RESULTS row, figures, HTML"; then
  if $publish; then paper+=(--publish "$recipe"); fi
  if ((${#targets[@]} == 1)); then name+=" $target"; fi
  run python -m unispeech report --exp "$exp" --recipe commonvoice --data-name "$name" --command "$command_line" \
    --condition setting="$setting" --condition vocabulary="$vocabulary" "${paper[@]}"
fi

#!/usr/bin/env bash
# Continuous speech separation on LibriCSS, or on speakers of your own: masks estimated by a Conformer on
# magnitudes, and on the layers of a pre-trained encoder; separated streams are recognised and scored by
# overlap. Finished steps are skipped, so the same command continues.
#
#   bash egs/libricss/run.sh --tiny true
#   bash egs/libricss/run.sh --corpora /data/corpora --conf conf/wavlm_large --recogniser MODEL --ngpu 8
#   bash egs/libricss/run.sh --corpora /data/corpora --conf conf/conformer --recogniser MODEL --method mvdr
#   bash egs/libricss/run.sh --corpora DIR --layout folder --conf conf/mini
set -euo pipefail
# options
stage=0                  # first stage to run
stop_stage=7             # last stage to run
tiny=false               # true: small models on a small corpus, in minutes on two cores
corpora=                 # folder of the corpora (with --tiny true: synthesised when not given)
layout=libricss          # libricss, or folder: conversations of the speakers of conf's sets.yaml
conf=                    # folder of the configurations (default: conf/wavlm_large, or conf/tiny)
exp=                     # experiment folder (default: exp/<name of the conf folder>)
train_parts="train-clean-100+train-clean-360+train-other-500"   # of LibriSpeech, to mix for training
dev_parts=dev-clean      # to mix for validation
tests="test"             # sets to evaluate: test, dev (session 0 of LibriCSS), or both
inputs="utterance continuous"   # what is separated: utterances cut out, and continuous input
continuous=segments      # continuous input of LibriCSS: segments of a minute or two, or whole sessions
channels=7               # of LibriCSS; 1 reads the first one only
method=mask              # mask: one channel is masked; mvdr: all channels are filtered
alone=                   # share of the speech below which others count as absent, and a speaker is left as he is (e.g. 0.1)
rooms=                   # simulated rooms to train in (default: 20000, 400 for conf/mini, 60 for conf/tiny)
musan=                   # folder of MUSAN, with --rirs: recorded noises and rooms instead of simulated ones
rirs=                    # folder of impulse responses
stored=0                 # mixtures of each training utterance that are stored; 0: all are made while reading
pretrained=              # encoder: released or own model (default: the conf folder's name, its pretrain.yaml, or egs/librispeech's for conf/mini)
recogniser=              # CTC model of the streams: a training of finetune, or one of Hugging Face (default: conf's finetune.yaml, or egs/librispeech's for conf/mini)
lang=                    # language folder to decode with its graph (default: greedily; egs/librispeech's for conf/mini)
scales=                  # tune.json of another decoding with this graph (default: none; egs/librispeech's for conf/mini)
systems=                 # what is trained, in order: magnitude, frozen, joint (default: those of the conf folder)
quality=false            # true: also PESQ and STOI, where there are references
read_audio=true          # false: check headers of the audio only, not all samples
ngpu=0                   # GPUs of this machine to train on (0: all there are)
nproc=2                  # processes that train where there is no GPU; each gets its share of cores
nodes=1                  # machines to train on; start this script on each
master=                  # HOST:PORT of the first machine, where there are several
device=cpu               # where streams are separated and recognised, e.g. cuda
nj=2                     # processes that prepare data
name=LibriCSS            # what the results call the data
publish=false            # true: write the rows into RESULTS.md of this recipe
dry_run=false            # true: print the commands, run none
# end of options
# shellcheck source=../../utils/recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
. "$root/utils/training.sh"; . "$root/utils/systems.sh"
. "$root/utils/separation.sh"

one_of layout libricss folder; one_of channels 1 7; one_of method mask mvdr; one_of continuous segments sessions
synthesise=false
if $tiny; then conf=${conf:-conf/tiny} exp=${exp:-$recipe/exp/tiny} train_parts=train-clean-100; fi
if $tiny && [[ -z $corpora ]]; then corpora=$exp/corpus name="synthesised speech" synthesise=true; fi
conf=${conf:-conf/wavlm_large}; exp=${exp:-$recipe/exp/${conf##*/}}
data=$exp/data sets=$exp/sets
plan_separation; launcher
prepare=(python "$root/local/prepare_librispeech.py" --jobs "$nj" "${untranscribed[@]}" --sets "train=$train_parts" "dev=$dev_parts")
if [[ $layout == folder ]]; then prepare=(python "$root/local/prepare_folder.py" --sets "$conf/sets.yaml"); fi
prepare+=(--corpora "$corpora" --output "$data")
meetings=(python "$root/local/prepare_libricss.py" --corpora "$corpora" --output "$sets" --channels "$channels" --continuous "$continuous")
simulate=(python "$root/local/prepare_mixtures.py" --config "$conf/mixtures.yaml" --jobs "$nj")
augmentation=(python "$root/local/prepare_augmentation.py" --musan "$musan" --rirs "$rirs" --output "$exp/augmentation")

if stage 0 "corpora: synthesise the tiny one, or check what is there"; then
  if $synthesise; then run python "$root/local/synthesise_libricss.py" --output "$corpora" --jobs "$nj"; fi
  run "${prepare[@]}" --check
  if [[ $layout == libricss ]]; then run "${meetings[@]}" --check; fi
  if [[ $musan ]]; then run "${augmentation[@]}" --check; fi
fi

if stage 1 "manifests: lhotse cuts, checked; sessions, segments, utterances"; then
  run "${prepare[@]}"
  run python -m unispeech validate "$data" --disjoint-speakers "$disjoint" --read-audio "$read_audio" --jobs "$nj"
  if [[ $layout == libricss ]]; then run "${meetings[@]}" --read-audio "$read_audio"; fi
fi

if stage 2 "targets: rooms; mixtures to validate and to test on"; then
  if [[ $musan ]]; then run "${augmentation[@]}"; else run "${simulate[@]}" rooms --count "$rooms" --output "$exp/rooms"; fi
  run "${simulate[@]}" pairs --seed 2 --copies 2 --manifest "$data/dev.jsonl.gz" --output "$exp/pairs/dev" "${heard_in[@]/#data./pairs.}"
  if ((stored)); then
    run "${simulate[@]}" pairs --copies "$stored" --manifest "$data/train.jsonl.gz" --output "$exp/pairs/train" "${heard_in[@]/#data./pairs.}"
  fi
  if [[ $layout == folder ]]; then converse; fi
  if [[ -f $conf/finetune.yaml ]]; then run python "$root/local/prepare_lang.py" --text "$data/train.jsonl.gz" --output "$exp/lang"; fi
fi

if stage 3 "pre-train: an encoder of one's own, or fetch a released one"; then
  if [[ $encoder == "$exp/pretrain" ]]; then
    run "${train[@]}" pretrain --config "$conf/pretrain.yaml" --output "$encoder" data.train="$data/train.jsonl.gz" data.valid="$data/dev.jsonl.gz"
  elif [[ $encoder && ! -e $encoder ]]; then run python -m unispeech fetch "$encoder"; fi
fi

if stage 4 "fine-tune: separation models; the recogniser where it is one's own"; then
  for system in "${systems[@]}"; do
    run "${train[@]}" separation --config "$conf/$system.yaml" --output "$exp/$system" "${begin[$system]}" data.train="$speech" \
      data.valid="$exp/pairs/dev/pairs.jsonl.gz" "${heard_in[@]}" "${overrides[@]}"
  done
  if [[ -f $conf/finetune.yaml ]]; then train_recogniser; fi
fi

if stage 5 "infer: separate, and recognise the streams"; then for_each_system separate_set; fi

if stage 6 "score: word error rate by overlap"; then for_each_system score_set; fi

if stage 7 "report: RESULTS row, figures, HTML"; then
  paper=(); if $publish; then paper=(--publish "$recipe"); fi
  run python -m unispeech report --exp "$exp" --recipe libricss --data-name "$name" --command "$command_line" "${paper[@]}"
fi

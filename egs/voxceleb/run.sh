#!/usr/bin/env bash
# Speaker verification on VoxCeleb, or on any speakers of your own: ECAPA-TDNN on the layers of a
# pre-trained encoder, frozen, then trained jointly, then with a large margin; scores with AS-norm
# and calibration. Finished steps are skipped, so the same command continues.
#
#   bash egs/voxceleb/run.sh --tiny true
#   bash egs/voxceleb/run.sh --corpora /data/corpora --conf conf/wavlm_large --ngpu 8
#   bash egs/voxceleb/run.sh --corpora /data/corpora --conf conf/fbank --systems "fbank large_margin" --ngpu 8
#   bash egs/voxceleb/run.sh --corpora DIR --layout folder --conf conf/mini --musan DIR --rirs DIR
set -euo pipefail
# options
stage=0                  # first stage to run
stop_stage=7             # last stage to run
tiny=false               # true: small models on a small corpus, in minutes on two cores
corpora=                 # folder of the corpora (with --tiny true: synthesised when not given)
layout=voxceleb          # voxceleb, or folder: the tables and Kaldi folders of conf's sets.yaml
conf=                    # folder of the configurations (default: conf/wavlm_large, or conf/tiny)
exp=                     # experiment folder (default: exp/<name of the conf folder>)
audio=                   # folder of decoded AAC, for all experiments (default: exp/audio)
train_parts=vox2-dev     # what is trained on; with vox1-dev+vox2-dev, test on vox1-test alone
dev_parts=vox2-test      # for validation
test_parts=vox1-dev+vox1-test   # utterances of the trial lists
lists=                   # trial lists: published names, NAME=FILE, or a file of these (default: conf's lists.txt, or vox1-o vox1-e vox1-h)
calibration=             # set that calibration trials are drawn from: train or dev (default: train; dev with --layout folder)
calibration_trials=30000 # how many
cohort_utterances=20     # of each training speaker, for AS-norm and the mean; 0: all, as wespeaker does
top=300                  # closest training speakers that AS-norm compares with
augment=true             # false: train without noises and rooms
musan=                   # folder of MUSAN (default: musan in --corpora)
rirs=                    # folder of impulse responses (default: RIRS_NOISES in --corpora)
shards=false             # true: train on Shar shards instead of the files
pretrained=              # encoder: released or own model (default: the conf folder's name, its pretrain.yaml, or egs/librispeech's for conf/mini)
systems=                 # what is trained, in order: fbank, frozen, joint, large_margin (default: those of the conf folder)
read_audio=true          # false: check headers of the audio only, not all samples
ngpu=0                   # GPUs of this machine to train on (0: all there are)
nproc=2                  # processes that train where there is no GPU; each gets its share of cores
nodes=1                  # machines to train on; start this script on each
master=                  # HOST:PORT of the first machine, where there are several
device=cpu               # where embeddings are computed, e.g. cuda
nj=2                     # processes that prepare data
name=VoxCeleb            # what the results call the data
publish=false            # true: write the rows into RESULTS.md of this recipe
dry_run=false            # true: print the commands, run none
# end of options
# shellcheck source=../../utils/recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
. "$root/utils/training.sh"; . "$root/utils/systems.sh"
. "$root/utils/verification.sh"

one_of layout voxceleb folder
synthesise=false
if $tiny; then conf=${conf:-conf/tiny} exp=${exp:-$recipe/exp/tiny} audio=${audio:-$exp/audio} calibration_trials=600 top=30; fi
if $tiny && [[ -z $corpora ]]; then corpora=$exp/corpus name="synthesised speech" synthesise=true; fi
conf=${conf:-conf/wavlm_large} audio=${audio:-$recipe/exp/audio}; exp=${exp:-$recipe/exp/${conf##*/}}
musan=${musan:-$corpora/musan} rirs=${rirs:-$corpora/RIRS_NOISES}
data=$exp/data trials=$exp/trials
plan_systems; launcher
prepare=(python "$root/local/prepare_voxceleb.py" --audio "$audio" --jobs "$nj"
  --sets "train=$train_parts" "dev=$dev_parts" "test=$test_parts")
if [[ $layout == folder ]]; then prepare=(python "$root/local/prepare_folder.py" --sets "$conf/sets.yaml"); fi
prepare+=(--corpora "$corpora" --output "$data")
make_trials=(python "$root/local/prepare_trials.py" --corpora "$corpora" --manifests "$data" --output "$trials" --lists "${lists[@]}"
  --calibration "$calibration" --calibration-trials "$calibration_trials" --cohort-utterances "$cohort_utterances" "${restrict[@]}")
augmentation=(python "$root/local/prepare_augmentation.py" --musan "$musan" --rirs "$rirs" --output "$exp/augmentation")
checked=(prepare make_trials augmentation) noises=(data.noise="$exp/augmentation/noise.jsonl.gz" data.rir="$exp/augmentation/rir.jsonl.gz")
if ! $augment; then checked=(prepare make_trials) noises=(data.augment_prob=0); fi

if stage 0 "corpora: synthesise the tiny one, or check what is there"; then
  if $synthesise; then run python "$root/local/synthesise_voxceleb.py" --output "$corpora" --jobs "$nj"; fi
  for step in "${checked[@]}"; do declare -n words=$step; run "${words[@]}" --check; done
fi

if stage 1 "manifests: lhotse cuts, checked; trial lists, cohort, calibration trials"; then
  run "${prepare[@]}"
  run python -m unispeech validate "$data" --disjoint-speakers train,dev,test --read-audio "$read_audio" --jobs "$nj"
  run "${make_trials[@]}"
fi

if stage 2 "targets: noises and rooms; shards on request"; then
  if $augment; then run "${augmentation[@]}"; fi
  if $shards; then
    run python "$root/local/mix.py" --output "$exp/mix" --sources train="$data/train.jsonl.gz"
    run python -m unispeech shards --manifest "$exp/mix/mix.jsonl.gz" --output "$exp/shards" --jobs "$nj"
  fi
fi

if stage 3 "pre-train: an encoder of one's own, or fetch a released one"; then
  if [[ $encoder == "$exp/pretrain" ]]; then
    run "${train[@]}" pretrain --config "$conf/pretrain.yaml" --output "$encoder" \
      data.train="$data/train.jsonl.gz" data.valid="$data/dev.jsonl.gz"
  elif [[ $encoder && ! -e $encoder ]]; then run python -m unispeech fetch "$encoder"; fi
fi

if stage 4 "fine-tune: speaker models, each from the one before"; then
  for system in "${systems[@]}"; do
    run "${train[@]}" speaker --config "$conf/$system.yaml" --output "$exp/$system" "${begin[$system]}" \
      data.train="$speech" data.valid="$data/dev.jsonl.gz" data.speakers="$trials/speakers.txt" \
      "${noises[@]}" "${overrides[@]}"
  done
fi

if stage 5 "infer: embeddings"; then
  for system in "${systems[@]}"; do for set in eval cohort calibration; do
    run python -m unispeech embed --model "$exp/$system" --wavs "$trials/$set.jsonl.gz" --output "$exp/embeddings/$system/$set" --device "$device"
  done; done
fi

if stage 6 "score: equal error rate and costs, with AS-norm and calibration"; then
  for system in "${systems[@]}"; do score_system "$system"; done
fi

if stage 7 "report: RESULTS row, figures, HTML"; then
  paper=(); if $publish; then paper=(--publish "$recipe"); fi
  run python -m unispeech report --exp "$exp" --recipe voxceleb --data-name "$name" --command "$command_line" "${paper[@]}"
fi

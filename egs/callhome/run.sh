#!/usr/bin/env bash
# Speaker diarization on CALLHOME, or on conversations of your own: EEND with vector clustering on
# the layers of a pre-trained encoder or on filter banks, trained on simulated conversations, adapted
# to real ones, scored by number of speakers. Finished steps are skipped, so the same command
# continues.
#
#   bash egs/callhome/run.sh --tiny true
#   bash egs/callhome/run.sh --corpora /data/corpora --conf conf/wavlm_large --ngpu 8
#   bash egs/callhome/run.sh --corpora /data/corpora --conf conf/fbank --ngpu 8
#   bash egs/callhome/run.sh --corpora DIR --layout folder --conf conf/mini --musan DIR --rirs DIR
set -euo pipefail
# options
stage=0                  # first stage to run
stop_stage=7             # last stage to run
tiny=false               # true: small models on a small corpus, in minutes on two cores
corpora=                 # folder of the corpora (with --tiny true: synthesised when not given)
layout=callhome          # callhome, or folder: the tables and RTTM files of conf's sets.yaml
conf=                    # folder of the configurations (default: conf/wavlm_large, or conf/tiny)
exp=                     # experiment folder (default: exp/<name of the conf folder>)
audio=                   # folder of decoded SPHERE files, for all experiments (default: exp/audio)
parts=                   # folder of part1.txt and part2.txt (default: conf/parts, the published ones)
segments=                # RTTM of a trained speech detector on the sides of the calls (default: by their energy)
shortest=                # seconds of speech that make an utterance (default: 1.5; 1 with --layout folder)
simulate=fly             # fly: every training chunk is of a new conversation; stored: write them first
augment=true             # false: simulate without noises and rooms
musan=                   # folder of MUSAN (default: musan in --corpora)
rirs=                    # folder of impulse responses (default: RIRS_NOISES in --corpora)
pretrained=              # encoder: released or own model (default: the conf folder's name, its pretrain.yaml, or egs/librispeech's for conf/mini)
systems=                 # what is trained, in order: fbank, frozen, joint, adapted (default: those of the conf folder)
sets=                    # what is diarized and scored (default: test, or conf's evaluate.txt)
tuned=true               # false: infer with the authors' settings instead of those chosen on part 1, or on dev
counts="estimated oracle"   # number of speakers of a recording: found, or given
collar=0.25              # seconds around boundaries that are not scored
overlap=true             # false: score where one speaker speaks only
read_audio=true          # false: check headers of the audio only, not all samples
ngpu=0                   # GPUs of this machine to train on (0: all there are)
nproc=2                  # processes that train where there is no GPU; each gets its share of cores
nodes=1                  # machines to train on; start this script on each
master=                  # HOST:PORT of the first machine, where there are several
device=cpu               # where recordings are diarized, e.g. cuda
nj=2                     # processes that prepare data
name=CALLHOME            # what the results call the data
publish=false            # true: write the rows into RESULTS.md of this recipe
dry_run=false            # true: print the commands, run none
# end of options
# shellcheck source=../../utils/recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
. "$root/utils/training.sh"; . "$root/utils/systems.sh"
. "$root/utils/diarization.sh"

one_of layout callhome folder; one_of simulate fly stored; one_of overlap true false
synthesise=false
if $tiny; then conf=${conf:-conf/tiny} exp=${exp:-$recipe/exp/tiny} audio=${audio:-$exp/audio} shortest=${shortest:-0.8}; fi
if $tiny && [[ -z $corpora ]]; then corpora=$exp/corpus parts=$corpora/LDC2001S97/parts name="synthesised speech" synthesise=true; fi
if [[ $layout == folder ]]; then shortest=${shortest:-1}; fi
conf=${conf:-conf/wavlm_large} shortest=${shortest:-1.5} audio=${audio:-$recipe/exp/audio}; exp=${exp:-$recipe/exp/${conf##*/}}
musan=${musan:-$corpora/musan} rirs=${rirs:-$corpora/RIRS_NOISES} parts=${parts:-conf/parts}
data=$exp/data speech=$exp/speech
plan_diarization; launcher
plan_data

if stage 0 "corpora: synthesise the tiny one, or check what is there"; then
  if $synthesise; then run python "$root/local/synthesise_callhome.py" --output "$corpora" --jobs "$nj"; fi
  for step in "${checked[@]}"; do declare -n words=$step; run "${words[@]}" --check; done
fi

if stage 1 "manifests: lhotse cuts and RTTM, checked; utterances of single speakers"; then
  for step in "${prepared[@]}"; do declare -n words=$step; run "${words[@]}"; done
  run python -m unispeech validate "$data" ${disjoint:+--disjoint-speakers "$disjoint"} --read-audio "$read_audio" --jobs "$nj"
  run "${divide[@]}"
fi

if stage 2 "targets: noises and rooms; simulated conversations"; then
  if $augment; then run "${augmentation[@]}"; fi
  run "${converse[@]}"
  run python -m unispeech validate "$data" ${disjoint:+--disjoint-speakers "$disjoint"} --read-audio false --jobs "$nj"
fi

if stage 3 "pre-train: an encoder of one's own, or fetch a released one"; then
  if [[ $encoder == "$exp/pretrain" ]]; then
    run "${train[@]}" pretrain --config "$conf/pretrain.yaml" --output "$encoder" \
      data.train="$speech/train.jsonl.gz" data.valid="$speech/dev.jsonl.gz"
  elif [[ $encoder && ! -e $encoder ]]; then run python -m unispeech fetch "$encoder"; fi
fi

if stage 4 "fine-tune: diarization models, on simulated conversations, then adapted"; then
  for system in "${systems[@]}"; do
    read_by "$system"
    run "${train[@]}" diarization --config "$conf/$system.yaml" --output "$exp/diarization_$system" "${begin[$system]}" \
      "${read[@]}" data.valid="$data/dev.jsonl.gz" "${overrides[@]}"
  done
fi

if stage 5 "infer: who speaks when"; then
  for system in "${systems[@]}"; do
    if $tuned; then tune "$system"; fi
    for set in "${sets[@]}"; do for count in "${counts[@]}"; do diarize "$system" "$set" "$count"; done; done
  done
fi

if stage 6 "score: diarization error rate by number of speakers"; then
  for system in "${systems[@]}"; do for set in "${sets[@]}"; do for count in "${counts[@]}"; do
    score_diarization "$system" "$set" "$count"
  done; done; done
fi

if stage 7 "report: RESULTS row, figures, HTML"; then
  paper=(); if $publish; then paper=(--publish "$recipe"); fi
  run python -m unispeech report --exp "$exp" --recipe callhome --data-name "$name" --command "$command_line" "${paper[@]}"
fi

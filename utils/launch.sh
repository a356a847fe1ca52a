#!/usr/bin/env bash
# Start a command of unispeech in one process per GPU, on one or several machines.
#
#   utils/launch.sh [--nproc N] [--threads N] pretrain --config conf/pretrain.yaml ...
#
# options:
#   --nproc N           processes on this machine (default: the number of GPUs, if there are any)
#   --cpu-nproc N       processes where there is no GPU and no --nproc (default: 1)
#   --threads N         threads of each process (default: $OMP_NUM_THREADS, else cores / nproc)
#   --nodes N           machines; this script is started once on each (default: 1)
#   --node-rank N       number of this machine from 0 (default: $SLURM_NODEID, else 0)
#   --master HOST:PORT  an open port of machine 0, needed with several machines
#
# SIGTERM, SIGUSR1 and Ctrl-C reach every process; the exit code is that of the command.
set -euo pipefail

root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
declare -A option=([nproc]="" [cpu-nproc]=1 [cpu-nproc]=1 [threads]="${OMP_NUM_THREADS:-}" [nodes]=1
  [node-rank]="${SLURM_NODEID:-0}" [master]="")

fail() {
  echo "launch.sh: error: $1; see utils/launch.sh --help" >&2
  exit 2
}

while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --nproc=* | --cpu-nproc=* | --threads=* | --nodes=* | --node-rank=* | --master=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --nproc | --cpu-nproc | --threads | --nodes | --node-rank | --master)
      (($# > 1)) || fail "$1 wants a value"
      if [[ $1 == --master ]]; then
        [[ $2 =~ ^[^:]+:[0-9]+$ ]] || fail "--master wants HOST:PORT, found '$2'"
      elif [[ ! $2 =~ ^[0-9]{1,6}$ || ($1 != --node-rank && $2 =~ ^0+$) ]]; then
        fail "$1 wants a whole number, found '$2'"
      fi
      option[${1#--}]=$2
      shift 2 ;;
    -*) fail "unknown option '$1'" ;;
    *) break ;;
  esac
done
(($#)) || fail "no command given"
command -v python >/dev/null || { echo "launch.sh: error: no python; source path.sh first" >&2; exit 69; }

nproc=${option[nproc]}
if [[ -z $nproc ]]; then
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    nproc=${#gpus[@]}
  else
    nproc=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
  fi
  ((nproc > 0)) || nproc=${option[cpu-nproc]}
fi
threads=${option[threads]}
if [[ -z $threads ]]; then
  threads=$(($(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) / nproc))
  ((threads > 0)) || threads=1
fi

if ((option[nodes] == 1)); then
  where=(--standalone)
else
  [[ -n ${option[master]} ]] || fail "--nodes ${option[nodes]} needs --master HOST:PORT"
  where=(--nnodes "${option[nodes]}" --node-rank "${option[node-rank]}"
    --master-addr "${option[master]%:*}" --master-port "${option[master]##*:}")
fi
case $1 in
  pretrain | finetune | lm | speaker | diarization | separation)
    # A finished training is skipped, and a wrong configuration reported, before anything starts.
    code=0
    python -m unispeech "$@" --is-done "$((nproc * option[nodes]))" || code=$?
    ((code == 4)) || exit "$code" ;;
esac
OMP_NUM_THREADS=$threads exec python "$root/utils/torchrun.py" "${where[@]}" \
  --nproc-per-node "$nproc" -- "$@"

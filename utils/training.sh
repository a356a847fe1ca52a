# shellcheck shell=bash
# What recipes that train and recognise share, as a sourced part of a run.sh.
#
#   one_of OPTION WORD...      ends with exit 2 unless the option's value is one of the words
#   launcher                   sets `train`: how a training starts, from ngpu, nproc, nodes, master
#   systems                    sets `folder` and `random`: the fine-tunings, with --scratch the control too
#   preset MODEL BUDGET        prints the file of a fine-tuning: finetune.yaml of the conf folder, else
#                              conf/finetune/MODEL_BUDGET.yaml, else {base,large}_BUDGET.yaml there
#
# They read conf and the options named here.
# shellcheck disable=SC2034,SC2154

one_of() { # <option> <word>...
  local _name=$1 _word
  shift
  for _word; do [[ ${!_name} != "$_word" ]] || return 0; done
  usage_error "--${_name//_/-} wants one of $*, found '${!_name}'"
}

launcher() {
  train=(bash "$root/utils/launch.sh" --cpu-nproc "$nproc" --nodes "$nodes" ${master:+--master "$master"})
  if ((ngpu)); then train+=(--nproc "$ngpu"); fi
}

systems() {
  declare -gA folder=([pretrained]=$exp/finetune) random=([pretrained]=false [scratch]=true)
  if $scratch; then folder[scratch]=$exp/finetune_scratch; fi
}

preset() { # <model> <budget>
  local _size=base _model=${1##*/}
  if [[ $_model == *large* ]]; then _size=large; fi
  first_of "$conf/finetune.yaml" "conf/finetune/${_model%_it[0-9]}_$2.yaml" "conf/finetune/${_size}_$2.yaml"
}

# shellcheck shell=bash
# Decoding with language models, as a sourced part of a run.sh.
#
#   plan_decoding       sets `methods`, the folders of a decoded set, and what they need, from
#                       rescore_arpa, rescore_order (an n-gram in the language folder) and lm
#   train_lm TEXT DEV   trains the Transformer that --lm transformer asks for, as conf/transformer_lm/
#                       of the configurations' name says, else as its large.yaml
#   decode_set MODEL SYSTEM SET   emissions of a set, and below them its text by every method:
#                       greedy; graph; graph_4gram, lattices rescored with the larger n-gram;
#                       rescored, n-best lists of the last of these rescored with the Transformer
#   decoded SET SYSTEM...   sets `texts`, the folders that these have been written to
#
# A recipe that decodes greedily only sets methods=(greedy) itself. Scales are found on the dev set,
# which therefore comes first. They read conf, exp, data, dev, lang, backend, train, the overrides.
# shellcheck disable=SC2034,SC2154

plan_decoding() {
  _larger=$rescore_arpa _nbest=() _lm=$lm
  if ((rescore_order)); then _larger=$lang/rescore.arpa; fi
  methods=(greedy graph ${_larger:+graph_4gram})
  if [[ $lm == transformer ]]; then _lm=$exp/lm; fi
  if [[ $lm != none ]]; then _nbest=(--nbest 100) methods+=(rescored); fi
}

train_lm() { # <text> <text of the dev set>
  local _file
  [[ $lm == transformer ]] || return 0
  _file=$(first_of "conf/transformer_lm/${conf##*/}.yaml" conf/transformer_lm/large.yaml)
  run "${train[@]}" lm --config "$_file" --output "$_lm" data.train="$1" data.valid="$2"
}

decode_set() { # <model> <system> <set>
  local _file _from=graph _method _tune out=$exp/infer/$2/$3
  run python -m unispeech emit --model "$1" --output "$out" "$data/$3.jsonl.gz"
  for _method in "${methods[@]}"; do
    case $_method in
      greedy) run python -m unispeech decode --method greedy --emissions "$out" --output "$out/greedy" ;;
      rescored)
        _scales "$3" rescored --tune-nbest "$out/$_from"
        run python -m unispeech rescore --nbest "$out/$_from" --lm transformer="$_lm" --output "$out/rescored" "${_tune[@]}" ;;
      *)
        _from=$_method _file=$(first_of "$conf/decode.yaml" conf/wavlm_base/decode.yaml)
        _scales "$3" "$_method" --tune-emissions "$out"
        if [[ $_method == graph_4gram ]]; then _tune+=(--rescore-arpa "$_larger"); fi
        run python -m unispeech decode --method graph --emissions "$out" --output "$out/$_method" --lang "$lang" \
          --backend "$backend" --config "$_file" "${_nbest[@]}" "${_tune[@]}" "${overrides[@]}" ;;
    esac
  done
}

decoded() { # <set> <system>...
  local _system _method
  texts=()
  for _system in "${@:2}"; do
    for _method in "${methods[@]}"; do texts+=("$exp/infer/$_system/$1/$_method"); done
  done
}

_scales() { # <set> <method> <option that finds scales> <its value>
  _tune=(--tuned "${out%/*}/$dev/$2/tune.json")
  if [[ $1 == "$dev" ]]; then _tune=("$3" "$4" --tune-reference "$data/$dev.jsonl.gz"); fi
}

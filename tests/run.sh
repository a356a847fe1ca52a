#!/usr/bin/env bash
# Every check of the repository: linters, types, then the tests, recipes last.
#
#   bash tests/run.sh [pytest options]
#
# Tests on real speech look for it in $UNISPEECH_DATA, else in ../shared/data.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# shellcheck source=/dev/null
. ./path.sh || exit
export OMP_NUM_THREADS=1

failed=()
check() { # <name> <command...>
  echo "== $1 =="
  "${@:2}" || failed+=("$1")
}

shell_files=(path.sh .ci/run)
while IFS= read -r -d '' file; do shell_files+=("$file"); done \
  < <(find egs utils tests -name '*.sh' -not -path '*/exp/*' -not -path '*/corpora/*' -print0)

check ruff ruff check .
check mypy mypy
check shellcheck shellcheck --external-sources --source-path=SCRIPTDIR "${shell_files[@]}"
check imports python -c 'import unispeech.__main__'
# One call, so that its closing line counts every test; pytest takes the folders in this order. Two
# processes, each with whole files: tests and recipes need at most two cores.
folders=()
for folder in tests/unit tests/parity tests/test_repository.py tests/recipes; do
  [[ ! -e $folder ]] || folders+=("$folder")
done
((${#failed[@]} == 0)) || echo "failed, whatever the tests say: ${failed[*]}" >&2
python -m pytest --numprocesses 2 --dist loadfile "${folders[@]}" "$@"
code=$?
((${#failed[@]} == 0)) || exit 1
exit "$code"

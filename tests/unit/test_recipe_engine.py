"""utils/recipe.sh, run for real with a small recipe in a folder of awkward name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = r"""#!/usr/bin/env bash
# Prints what it is given.
set -euo pipefail
# options
stage=0                # first stage to run
stop_stage=7           # last stage to run
tiny=false             # true: a small corpus
label=none             # any text
name=a                 # these three are
value=b                # names that the
line="c"               # engine might use
corpora=               # folder of the corpora
exp=exp/base           # experiment folder
dry_run=false          # true: print the commands only
# end of options
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/recipe.sh" "$@"
if stage 0 "corpora"; then
  run python3 "$root/show.py" "$stage" "$tiny" "$label" "$corpora" "$exp" "${overrides[@]}"
  run printf 'NAMES %s %s %s\n' "$name" "$value" "$line"
fi
if stage 3 "pretrain"; then
  run python3 "$root/work.py"
fi
if stage 4 "finetune"; then
  run touch reached
fi
"""

SHOW = "import json, os, sys\nprint('SHOW' + json.dumps([os.getcwd(), *sys.argv[1:]]))\n"

WORK = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
print("working", flush=True)
try:
    time.sleep(float(os.environ.get("SECONDS_OF_WORK", "0")))
except KeyboardInterrupt:
    print("saved", flush=True)
    sys.exit(130)
sys.exit(int(os.environ.get("CODE", "0")))
"""

HOSTILE = [
    "$(touch {pwned})",
    "`touch {pwned}`",
    "; touch {pwned} #",
    "a b  c",
    'it\'s "quoted"',
    "two\nlines",
    "*",
    "Grüße 语音",
    "-x",
    "a\\b$HOME",
    "x[$(touch {pwned})]",
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def recipe(repo: Path, tmp_path: Path) -> Path:
    root = tmp_path / "my 'repo' $(x)"
    (root / "utils").mkdir(parents=True)
    shutil.copy(repo / "utils" / "recipe.sh", root / "utils")
    (root / "path.sh").write_text('touch "$root/installed"\n')
    (root / "show.py").write_text(SHOW)
    (root / "work.py").write_text(WORK)
    script = root / "egs" / "the corpus" / "run.sh"
    script.parent.mkdir(parents=True)
    script.write_text(RECIPE)
    return script


@pytest.fixture
def run(recipe: Path, tmp_path: Path) -> Run:
    def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        elsewhere = tmp_path / "caller's folder"
        elsewhere.mkdir(exist_ok=True)
        return subprocess.run(
            ["bash", str(recipe), *words],
            cwd=elsewhere,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def shown(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("SHOW"))
    return list(json.loads(line[4:]))


def test_defaults_and_working_folder(run: Run, recipe: Path) -> None:
    folder = str(recipe.parent)
    values = shown(run("--stop-stage", "0"))
    assert values == [folder, "0", "false", "none", "", f"{folder}/exp/base"]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("joined", [False, True])
def test_hostile_values_stay_data(run: Run, tmp_path: Path, value: str, joined: bool) -> None:
    pwned = tmp_path / "pwned"
    value = value.replace("{pwned}", str(pwned))
    words = [f"--label={value}"] if joined else ["--label", value]
    values = shown(run(*words, "--stop-stage", "0", f"a.b={value}"))
    assert values[3] == value
    assert values[6:] == [f"a.b={value}"]
    assert not pwned.exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_a_dry_run_can_be_pasted_into_a_shell(run: Run, recipe: Path, value: str) -> None:
    value = value.replace("{pwned}", "pwned")
    dry = run("--dry-run", "true", "--stop-stage", "0", f"--label={value}", f"k={value}")
    again = subprocess.run(
        ["bash", "-c", dry.stdout], cwd=recipe.parent, capture_output=True, text=True, check=False
    )
    values = shown(again)
    assert (values[3], values[6]) == (value, f"k={value}")


def test_relative_folders_are_the_callers(run: Run, tmp_path: Path) -> None:
    values = shown(run("--exp", "my exp", "--corpora=../data", "--stop-stage", "0"))
    caller = tmp_path / "caller's folder"
    assert values[4:6] == [f"{caller}/../data", f"{caller}/my exp"]
    assert (caller / "my exp" / "commands.tsv").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stge", "3"], "unknown option --stge; did you mean --stage?"),
        (["--dry", "true"], "unknown option --dry; did you mean --dry-run?"),
        (["--PATH", "/x"], "unknown option --PATH"),
        (["--root", "/x"], "unknown option --root"),
        (["--_stop", "1"], "unknown option --_stop"),
        (["--zzzzzzzzzz", "1"], "unknown option --zzzzzzzzzz;"),
        (["--", "x"], "unknown option --"),
        (["--stage"], "--stage wants a whole number"),
        (["--exp", "--tiny", "true"], "--exp wants a value"),
        (["--stage", "abc"], "--stage wants a whole number, found abc"),
        (["--stage", "-1"], "--stage wants a whole number, found -1"),
        (["--stage", "1+1"], "--stage wants a whole number, found 1+1"),
        (["--stage="], "--stage wants a whole number, found ''"),
        (["--tiny", "yes"], "--tiny wants true or false, found yes"),
        (["--stage", "5", "--stop-stage", "3"], "--stage 5 is after --stop-stage 3"),
        (["word"], "expected --option value or key=value, found word"),
        (["-x=1"], "expected --option value or key=value, found -x=1"),
        (["a..b=1"], "expected --option value or key=value"),
    ],
)
def test_wrong_options(run: Run, recipe: Path, words: list[str], message: str) -> None:
    result = run(*words)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (recipe.parents[2] / "installed").exists()


def test_an_option_name_is_not_executed(run: Run, tmp_path: Path) -> None:
    pwned = tmp_path / "pwned"
    for name in (f"--$(touch '{pwned}')", f"--x[$(touch '{pwned}')]", "--a[0]"):
        assert run(name, "1").returncode == 2
        assert run(f"{name}=1").returncode == 2
    assert not pwned.exists()


def test_options_with_the_names_of_internal_variables(run: Run) -> None:
    words = ["--name", "1", "--value", "2", "--line", "3", "--stop-stage", "0"]
    assert "\nNAMES 1 2 3\n" in run(*words).stdout


def test_whole_numbers_are_decimal(run: Run) -> None:
    assert shown(run("--stop-stage", "0", "--stage", "000"))[1] == "0"
    assert "stage 4: finetune" in run("--stage", "04", "--stop-stage", "08").stdout


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help(run: Run, recipe: Path, word: str) -> None:
    result = run(word)
    assert result.returncode == 0
    for part in (
        "Prints what it is given.",
        "--stop-stage  last stage to run (default: 7)",
        "--corpora     folder of the corpora\n",
        "--name        these three are (default: a)",
        "   3  pretrain",
        "key=value",
    ):
        assert part in result.stdout
    assert not (recipe.parents[2] / "installed").exists()


def test_dry_run_touches_nothing(run: Run, recipe: Path) -> None:
    before = sorted(recipe.parents[2].rglob("*"))
    result = run("--dry-run", "true")
    assert result.returncode == 0
    assert [line for line in result.stdout.splitlines() if line.startswith("#")] == [
        "# == stage 0: corpora ==",
        "# == stage 3: pretrain ==",
        "# == stage 4: finetune ==",
    ]
    assert sorted(recipe.parents[2].rglob("*")) == before


def test_stages_and_the_log_of_commands(run: Run, recipe: Path) -> None:
    result = run("--stage", "3", "--stop-stage", "4")
    assert result.returncode == 0
    assert "== stage 0" not in result.stdout
    assert "== stage 3: pretrain ==" in result.stdout
    assert (recipe.parent / "reached").exists()
    log = (recipe.parent / "exp" / "base" / "commands.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in log]
    assert [(row[1], row[3]) for row in rows] == [("3", "0"), ("4", "0")]
    assert rows[1][2] == "touch reached"
    assert all(row[0][10] == "T" and row[4].isdigit() for row in rows)


@pytest.mark.parametrize("code", [1, 65, 70, 75, 78])
def test_a_failed_command_ends_the_recipe_with_its_code(run: Run, recipe: Path, code: int) -> None:
    words = ["--stage=0", "--label", "a 'b'", "k=$v"]
    result = run(*words, CODE=str(code))
    assert result.returncode == code
    assert not (recipe.parent / "reached").exists()
    assert result.stderr.count("\n") == 1
    assert f"stage 3 (pretrain) ended with exit code {code}" in result.stderr
    # The advice continues: same options, from stage 3 on.
    advice = result.stderr.strip().split("continue with: ")[1]
    again = subprocess.run(["bash", "-c", advice], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "stage 0" not in again.stdout
    assert (recipe.parent / "reached").exists()


def test_an_unwritable_log_ends_the_recipe(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run("--exp", str(tmp_path / "file"), "--stop-stage", "0").returncode == 74


@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 75), (signal.SIGUSR1, False, 75)],
)
def test_signals(recipe: Path, number: int, whole_group: bool, code: int) -> None:
    # A terminal sends Ctrl-C to the whole group; schedulers may signal the recipe alone.
    restore = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    execute = "os.execvp('bash', ['bash', *sys.argv[1:]])"
    process = subprocess.Popen(
        [sys.executable, "-c", restore + execute, str(recipe), "--stage", "3"],
        start_new_session=True,
        env=os.environ | {"SECONDS_OF_WORK": "60"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "working" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.2)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert not (recipe.parent / "reached").exists()
    assert "continue with:" in errors
    if number == signal.SIGINT:
        assert "saved" in output

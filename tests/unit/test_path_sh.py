"""path.sh, run for real with a stand-in for Python that records what it is asked to do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Answers the questions of path.sh; "makes" environments by copying itself; "installs" by writing
# to a log, failing when the file `fail` exists and hanging as long as the file `hang` exists.
STUB = r"""#!/usr/bin/env bash
here=$(cat "$(dirname "$(readlink -f "$0")")/stub_home")
echo "$*" >>"$here/calls"
case "$*" in
  *version_info*) [[ ! -e $here/old ]] ;;
  --version) echo "Python 3.8.1" ;;
  *ensurepip*) [[ ! -e $here/no_venv ]] ;;
  "-m venv --clear "*)
    rm -rf "$4"; mkdir -p "$4/bin"
    cp "$(readlink -f "$0")" "$4/bin/python"
    echo "$here" >"$4/bin/stub_home"
    echo "version = 3.11" >"$4/pyvenv.cfg" ;;
  "-m pip install "*)
    while [[ -e $here/hang ]]; do sleep 0.1; done
    [[ ! -e $here/fail ]] ;;
  *"sys.prefix"*) cat "$here/prefix" ;;
  *"import unispeech"*) [[ -e $here/importable ]] ;;
  *) exit 99 ;;
esac
"""

Source = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def root(repo: Path, tmp_path: Path) -> Path:
    root = tmp_path / "a 'repo' $(x)"
    root.mkdir()
    shutil.copy(repo / "path.sh", root)
    (root / "setup.py").write_text("setup\n")
    (root / "constraints.txt").write_text("# versions\nnumpy==2\ntorch==9.8.7\ntorchish==1\n")
    return root


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """The folder of the stand-in; files in it steer what it does."""
    folder = tmp_path / "stub"
    folder.mkdir()
    (folder / "python3").write_text(STUB)
    (folder / "python3").chmod(0o755)
    (folder / "stub_home").write_text(f"{folder}\n")
    for version in range(10, 15):
        (folder / f"python3.{version}").symlink_to("python3")
    return folder


def calls(stub: Path) -> list[str]:
    log = stub / "calls"
    return log.read_text().splitlines() if log.exists() else []


def installations(stub: Path) -> int:
    return sum("tiny,dev" in call for call in calls(stub))


@pytest.fixture
def source(root: Path, stub: Path) -> Source:
    def call(
        after: str = "", options: str = "set -euo pipefail", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("UNISPEECH_PYTHON", "LC_ALL")}
        path = {"PATH": f"{stub}:{clean['PATH']}"}
        return subprocess.run(
            ["bash", "-c", f'{options}\nsource "$0/path.sh"\n{after}', str(root)],
            env=clean | path | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_the_first_call_installs_torch_first_and_alone(
    source: Source, root: Path, stub: Path
) -> None:
    result = source("command -v python; echo $LC_ALL")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{root}/.venv/bin/python", "C.UTF-8"]
    installs = [call for call in calls(stub) if call.startswith("-m pip")]
    assert installs == [
        "-m pip install torch==9.8.7",
        f"-m pip install -c {root}/constraints.txt -e {root}[tiny,dev]",
    ]
    assert result.stderr.count("\n") == 1
    assert f"log: {root}/build/environment.log" in result.stderr


@pytest.mark.parametrize("options", ["set -euo pipefail", ":", "set -o posix"])
def test_the_second_call_does_nothing_and_starts_no_python(
    source: Source, stub: Path, options: str
) -> None:
    source()
    before = calls(stub)
    result = source("echo alive", options=options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "alive\n", "")
    assert calls(stub) == before


def test_sourcing_twice_puts_the_environment_on_path_once(source: Source, root: Path) -> None:
    result = source('source "$0/path.sh"; echo "$PATH"; declare -F | grep unispeech || true')
    assert result.stdout.count(f"{root}/.venv/bin") == 1
    assert "declare -f" not in result.stdout


@pytest.mark.parametrize("name", ["setup.py", "constraints.txt"])
def test_changed_requirements_are_installed(
    source: Source, root: Path, stub: Path, name: str
) -> None:
    source()
    (root / name).write_text((root / name).read_text() + "# changed\n")
    assert source().returncode == 0
    assert installations(stub) == 2
    assert sum("venv --clear" in call for call in calls(stub)) == 1


def test_a_new_python_version_is_noticed(source: Source, root: Path, stub: Path) -> None:
    source()
    (root / ".venv" / "pyvenv.cfg").write_text("version = 3.12\n")
    source()
    assert installations(stub) == 2


def test_a_failed_installation_is_repaired(source: Source, root: Path, stub: Path) -> None:
    (stub / "fail").touch()
    result = source("echo alive")
    assert result.returncode == 1
    assert "alive" not in result.stdout
    assert "the installation failed; see" in result.stderr.splitlines()[-1]
    assert not (root / ".venv" / "unispeech.stamp").exists()
    (stub / "fail").unlink()
    assert source().returncode == 0
    # Nothing that an interrupted installation left behind is trusted.
    assert sum("venv --clear" in call for call in calls(stub)) == 2


def test_an_interrupted_update_is_repaired(source: Source, root: Path, stub: Path) -> None:
    source()
    (root / "setup.py").write_text("changed\n")
    (stub / "fail").touch()
    source()
    (root / "setup.py").write_text("setup\n")
    (stub / "fail").unlink()
    source()
    assert installations(stub) == 2, "the old stamp must not hide the half-done update"


def test_half_an_environment_is_remade(source: Source, root: Path, stub: Path) -> None:
    source()
    (root / ".venv" / "bin" / "python").unlink()
    assert source().returncode == 0
    assert sum("venv --clear" in call for call in calls(stub)) == 2


def test_a_moved_repository_remakes_its_environment(root: Path, source: Source, stub: Path) -> None:
    source()
    moved = root.with_name("moved")
    root.rename(moved)
    result = subprocess.run(
        ["bash", "-c", 'source "$0/path.sh"', str(moved)],
        env=os.environ | {"PATH": f"{stub}:{os.environ['PATH']}", "UNISPEECH_PYTHON": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert sum("venv --clear" in call for call in calls(stub)) == 2


@pytest.mark.parametrize(
    ("switch", "message"),
    [("old", "no Python 3.10 or newer found (Python 3.8.1)"), ("no_venv", "has no venv module")],
)
def test_unusable_pythons(source: Source, stub: Path, switch: str, message: str) -> None:
    (stub / switch).touch()
    result = source("echo alive")
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    # An interactive shell, without `set -e`, goes on.
    assert source("echo alive $?", options=":").stdout == "alive 1\n"


def test_concurrent_calls_install_once(root: Path, stub: Path) -> None:
    (stub / "hang").touch()
    environment = os.environ | {"PATH": f"{stub}:{os.environ['PATH']}", "UNISPEECH_PYTHON": ""}
    command = ["bash", "-c", 'source "$0/path.sh"', str(root)]
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    while not any("pip install" in call for call in calls(stub)):
        assert all(process.poll() in (None, 0) for process in processes)
    (stub / "hang").unlink()
    assert [process.wait(timeout=30) for process in processes] == [0, 0, 0]
    assert installations(stub) == 1


def test_ctrl_c_during_the_installation(root: Path, stub: Path) -> None:
    (stub / "hang").touch()
    # Background processes ignore Ctrl-C, and tests may run in the background.
    restore = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    execute = "os.execvp('bash', ['bash', '-c', 'set -e; . \"$0/path.sh\"', sys.argv[1]])"
    process = subprocess.Popen(
        [sys.executable, "-c", restore + execute, str(root)],
        env=os.environ | {"PATH": f"{stub}:{os.environ['PATH']}", "UNISPEECH_PYTHON": ""},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any("pip install" in call for call in calls(stub)):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT)
    assert len(errors.splitlines()) == 2, errors
    assert not (root / ".venv" / "unispeech.stamp").exists()


@pytest.fixture
def foreign(tmp_path: Path, stub: Path) -> Path:
    """An environment of the user's own."""
    binaries = tmp_path / "their env" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy(stub / "python3", binaries / "python")
    shutil.copy(stub / "stub_home", binaries)
    (stub / "prefix").write_text(str(binaries.parent))
    return binaries / "python"


@pytest.mark.parametrize("is_venv", [True, False])
def test_an_environment_of_the_users_own(
    source: Source, root: Path, stub: Path, foreign: Path, is_venv: bool
) -> None:
    if is_venv:
        (foreign.parents[1] / "pyvenv.cfg").write_text("version = 3.13\n")
    for _ in range(2):
        result = source("command -v python", UNISPEECH_PYTHON=str(foreign))
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{foreign}\n"
    assert installations(stub) == 1
    assert not any("venv --clear" in call for call in calls(stub))
    assert not (root / ".venv").exists()
    assert (foreign.parents[1] / "unispeech.stamp").exists()


def test_a_wrong_unispeech_python(source: Source, tmp_path: Path) -> None:
    result = source("echo alive", UNISPEECH_PYTHON=str(tmp_path / "none"))
    assert result.returncode == 1
    assert "is not the bin/python of an environment" in result.stderr
    assert result.stderr.count("\n") == 1

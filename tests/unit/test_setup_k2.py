"""Finding, choosing and reporting k2: utils/setup_k2.sh, utils/k2_wheel.py and `doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from unispeech.__main__ import main
from unispeech.decode import k2, k2_process


def setup(repo: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(repo / "utils" / "setup_k2.sh"), *options]
    environment = {**os.environ, "UNISPEECH_PYTHON": sys.executable, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_options(repo: Path, tmp_path: Path) -> None:
    assert "--index URL" in setup(repo, "--help").stdout
    for options in (["--nonsense"], ["--folder"], ["--folder="]):
        done = setup(repo, *options)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_a_check_changes_nothing(repo: Path, tmp_path: Path) -> None:
    if k2.available():
        pytest.skip("k2 is in this environment")
    # A python without a stamp is what an interrupted installation leaves.
    (tmp_path / "k2" / "bin").mkdir(parents=True)
    (tmp_path / "k2" / "bin" / "python").symlink_to(sys.executable)
    for folder in (tmp_path / "k2", tmp_path / "nothing"):
        done = setup(repo, "--check", "--folder", str(folder))
        assert done.returncode == 69
        assert done.stderr == (
            "setup_k2.sh: error: no k2 works here; run: bash utils/setup_k2.sh\n"
        )
    assert sorted(tmp_path.iterdir()) == [tmp_path / "k2"]


def test_what_the_script_makes_is_found(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if k2.available():
        pytest.skip("k2 is in this environment")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "unispeech.stamp").write_text("k2 1.23.4, torch 1.13.1, numpy 1.26.4\n")
    done = setup(repo, UNISPEECH_K2=str(tmp_path))
    assert done.returncode == 0
    assert str(tmp_path) in done.stdout
    monkeypatch.delenv("UNISPEECH_K2_PYTHON", raising=False)
    monkeypatch.setenv("UNISPEECH_K2", str(tmp_path))
    assert k2_process.find_python() == tmp_path / "bin" / "python"


def load_wheel_module(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("k2_wheel", repo / "utils" / "k2_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_wheel_of_this_torch_is_chosen(repo: Path) -> None:
    wheels = load_wheel_module(repo)
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    system = {"darwin": "macosx_11_0_"}.get(sys.platform, "manylinux_2_17_") + platform.machine()

    def name(version: str, device: str, torch: str, tag: str = python, on: str = system) -> str:
        return f"https://a.b/k2-{version}%2B{device}.torch{torch}-{tag}-{tag}-{on}.whl"

    right = name("1.24.4.dev20250807", "cpu", "2.8.0")
    links = [
        name("1.24.4.dev20241029", "cpu", "2.8.0"),
        right,
        name("1.24.4.dev20260101", "cpu", "2.8.1"),
        name("1.24.4.dev20260101", "cpu", "2.8.0", "cp36"),
        name("1.24.4.dev20260101", "cpu", "2.8.0", on="win_amd64"),
        name("1.24.4.dev20260101", "cuda12.4", "2.8.0"),
        "https://a.b/index.html",
    ]
    assert wheels.choose(links, "2.8.0+cpu", None) == right
    assert wheels.choose(links, "2.8.0+cu124", "12.4") == links[5]
    assert wheels.choose(links, "2.8.0+cu126", "12.6") is None
    page = f"<a href='{right}'>k2</a> <a href=\"other.whl\">"
    assert wheels.links_of(page, "https://c.d/k2/cpu.html") == [
        right,
        "https://c.d/k2/other.whl",
    ]


def test_an_index_out_of_reach(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels = load_wheel_module(repo)
    assert wheels.main([tmp_path.as_uri()]) == 69
    assert capsys.readouterr().err.count("\n") == 1
    for device in ("cpu", "cuda"):
        (tmp_path / f"{device}.html").write_text("<a href='k2-1.24.4+cpu.torch0.4.1.whl'>")
    assert wheels.main([tmp_path.as_uri()]) == 69
    assert "has no k2 for torch" in capsys.readouterr().err


def test_doctor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["doctor"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for package in ("torch", "lhotse", "kaldifst", "kaldilm", "kaldi-decoder", "soundfile"):
        version = importlib.metadata.version(package)
        assert lines[package].split()[1:] == ["yes", version]
    usable = k2.available() or k2_process.find_python() is not None
    assert lines["k2"].split()[1] == ("yes" if usable else "no")

    monkeypatch.setattr("unispeech.decode.k2.available", lambda: False)
    monkeypatch.setenv("UNISPEECH_K2_PYTHON", "")
    monkeypatch.setenv("UNISPEECH_K2", str(tmp_path))
    monkeypatch.setitem(sys.modules, "kaldilm", None)
    assert main(["doctor"]) == 69
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["k2"].split()[1] == "no"
    assert "bash utils/setup_k2.sh" in lines["k2"]
    assert lines["kaldilm"].split()[1] == "NO"
    assert "required and missing: kaldilm" in err
    assert err.count("\n") == 1

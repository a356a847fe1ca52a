"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Kernels in Triton run under its interpreter, on a CPU. It has to know when it is first imported,
# which other packages do as well; with TRITON_INTERPRET=0 their tests run on a GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real speech: $UNISPEECH_DATA, else ../shared/data."""
    folder = Path(os.environ.get("UNISPEECH_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real speech in {folder}; set UNISPEECH_DATA to a folder that has it")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which k2 ran and how much it decoded; tests record it as the property "k2"."""
    reports = [r for group in terminalreporter.stats.values() for r in group]
    found = [
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "k2" and report.when == "call"
    ]
    for version in sorted({version for version, _ in found}):
        count = sum(number for other, number in found if other == version)
        terminalreporter.write_line(f"k2 {version}: {count} utterances decoded")

"""The papers' tables: spot values, complete tables, agreement between the two papers."""

from __future__ import annotations

from pathlib import Path

import pytest

from unispeech.report import paper, results


@pytest.mark.parametrize(
    ("model", "hours", "lm", "clean", "other"),
    [
        ("WavLM Base", 100, "4-gram", 3.4, 7.7),
        ("WavLM Base+", 10, "none", 9.0, 14.7),
        ("WavLM Large", 1, "Transformer", 2.9, 5.1),
        ("HuBERT Base", 1, "none", 20.9, 27.5),
        ("ILS-SSL Base", 10, "4-gram", 3.8, 8.1),
        ("ILS-SSL Large", 960, "none", 1.9, 3.8),
        ("wav2vec 2.0 Large", 100, "4-gram", 2.3, 4.6),
    ],
)
def test_paper_values(model: str, hours: int, lm: str, clean: float, other: float) -> None:
    for test_set, value in (("test-clean", clean), ("test-other", other)):
        row = paper.lookup(model, hours, lm, test_set)
        assert row is not None
        assert row.value == value
        assert not row.recalled


def test_paper_tables_are_complete() -> None:
    keys = [(r.paper, r.model, r.hours, r.lm, r.test_set) for r in paper.LIBRISPEECH]
    assert len(keys) == len(set(keys)) == 14 * 3 * 2 + 2 + 14 * 3 * 2
    for name, systems in (("WavLM", {1, 10, 100}), ("ILS-SSL", {1, 10, 100})):
        rows = [r for r in paper.LIBRISPEECH if r.paper == name and r.hours != 960]
        for model, lm in {(r.model, r.lm) for r in rows}:
            cells = {(r.hours, r.test_set) for r in rows if (r.model, r.lm) == (model, lm)}
            assert cells == {(hours, test) for hours in systems for test in paper.TEST_SETS}
    assert all(0 < row.value < 100 for row in paper.LIBRISPEECH)
    # test-other is the harder set for every system.
    values = {key: row.value for key, row in zip(keys, paper.LIBRISPEECH, strict=True)}
    for key, value in values.items():
        if key[-1] == "test-clean":
            assert value < values[key[:-1] + ("test-other",)]


def test_recalled_numbers_are_marked() -> None:
    recalled = [row for row in paper.LIBRISPEECH if row.recalled]
    assert [(r.model, r.hours, r.value) for r in recalled] == [
        ("WavLM Large", 960, 1.8), ("WavLM Large", 960, 3.2),
    ]  # fmt: skip
    assert paper.lookup("WavLM Base", 960, "none", "test-clean") is None


def test_both_papers_agree_on_shared_numbers() -> None:
    tables: dict[str, dict[str, float]] = {"WavLM": {}, "ILS-SSL": {}}
    for row in paper.LIBRISPEECH:
        tables[row.paper][row.label] = row.value
    shared = tables["WavLM"].keys() & tables["ILS-SSL"].keys()
    assert len(shared) == 30
    assert all(tables["WavLM"][label] == tables["ILS-SSL"][label] for label in shared)


def test_the_published_results_are_rendered_from_their_records(repo: Path) -> None:
    folders = sorted(path.parent for path in repo.glob("egs/*/results.json"))
    assert folders
    for folder in folders:
        records = results.read(folder / "results.json")
        assert (folder / "RESULTS.md").read_text(encoding="utf-8") == results.render(records)

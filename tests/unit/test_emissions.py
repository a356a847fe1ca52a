"""Emissions on disk: round trip, and every way in which the files can be wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unispeech.decode.emissions import EmissionReader, EmissionWriter
from unispeech.errors import DataError, NumericsError

TOKENS = ["<blk>", "|", "A", "B"]


def log_probs(frames: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.log(generator.dirichlet(np.full(4, 0.3), frames)).astype(np.float32)


def write(
    folder: Path, emissions: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]
) -> None:
    with EmissionWriter(folder, TOKENS, 0.02, {"checkpoint_sha256": "abc"}) as writer:
        pairs = emissions.items() if isinstance(emissions, Mapping) else emissions
        for utt_id, values in pairs:
            writer.write(utt_id, values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "set", {"utt-b": log_probs(7), "utt-a": log_probs(3, 1)})
    return tmp_path / "set"


def test_round_trip(folder: Path) -> None:
    reader = EmissionReader(folder)
    assert reader.tokens == TOKENS
    assert reader.frame_shift == 0.02
    assert reader.utt_ids == ["utt-b", "utt-a"]
    assert len(reader) == 2
    assert reader.seconds == pytest.approx(10 * 0.02)
    assert reader.meta == {"checkpoint_sha256": "abc"}
    expected = {"utt-b": log_probs(7), "utt-a": log_probs(3, 1)}
    for utt_id, found in reader:
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected[utt_id].astype(np.float16))
        np.testing.assert_array_equal(found, reader[utt_id])


def test_the_array_is_a_plain_npy_file(folder: Path) -> None:
    array = np.load(folder / "emissions.npy", mmap_mode="r")
    assert array.dtype == np.float16
    np.testing.assert_array_equal(
        array, np.concatenate([log_probs(7), log_probs(3, 1)]).astype(np.float16)
    )
    about = json.loads((folder / "emissions.json").read_text())
    assert about["vocabulary"] == 4
    assert about["frames"] == 10


@given(st.lists(st.integers(1, 6), max_size=5))
def test_any_lengths(tmp_path_factory: pytest.TempPathFactory, lengths: list[int]) -> None:
    folder = tmp_path_factory.mktemp("emissions")
    with EmissionWriter(folder, TOKENS, 0.02) as writer:
        for place, frames in enumerate(lengths):
            writer.write(f"u{place}", log_probs(frames, place))
    reader = EmissionReader(folder)
    assert [len(x) for _, x in reader] == lengths


def test_values_below_float16_become_its_minimum(tmp_path: Path) -> None:
    with EmissionWriter(tmp_path, TOKENS, 0.02) as writer:
        writer.write("u", np.array([[0.0, -np.inf, -1e5, -1.0]], np.float32))
    assert EmissionReader(tmp_path)["u"].tolist() == [[0.0, -65504.0, -65504.0, -1.0]]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nan_names_the_utterance_and_leaves_nothing(tmp_path: Path, wrong: float) -> None:
    bad = np.full((2, 4), wrong, np.float32)
    with pytest.raises(NumericsError, match="utterance bad"):
        write(tmp_path / "set", {"good": log_probs(3), "bad": bad})
    assert list((tmp_path / "set").iterdir()) == []


def test_an_interrupted_rewrite_keeps_the_old_emissions(folder: Path) -> None:
    def interrupted() -> Iterator[tuple[str, np.ndarray]]:
        yield "new", log_probs(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(folder, interrupted())
    assert EmissionReader(folder).utt_ids == ["utt-b", "utt-a"]


def test_results_beside_the_emissions_stay(folder: Path) -> None:
    (folder / "greedy").mkdir()
    (folder / "greedy" / "text").write_text("utt-a A\n")
    with EmissionWriter(folder, TOKENS, 0.02) as writer:
        writer.write("new", log_probs(2))
    assert EmissionReader(folder).utt_ids == ["new"]
    assert (folder / "greedy" / "text").read_text() == "utt-a A\n"


@pytest.mark.parametrize("name", ["emissions.npy", "index.tsv", "emissions.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damage_is_found(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) - 5
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    if (name, damage) == ("emissions.json", "altered"):
        path.write_bytes(data.replace(b'"frames": 10', b'"frames": 11'))
    with pytest.raises(DataError, match="run emit again"):
        EmissionReader(folder)


def test_a_swapped_index_is_found_without_hashes(folder: Path) -> None:
    (folder / "index.tsv").write_text("utt-b\t0\t3\nutt-a\t7\t7\n")
    with pytest.raises(DataError, match="utt-a does not start"):
        EmissionReader(folder, verify=False)


@pytest.mark.parametrize("names", [["a", "a"], ["a b"], [""], ["a\tb"]])
def test_unusable_names(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match="white space|twice"):
        write(tmp_path, ((name, log_probs(1)) for name in names))


def test_an_unknown_utterance(folder: Path) -> None:
    with pytest.raises(DataError, match="no emissions of utterance nobody"):
        EmissionReader(folder)["nobody"]

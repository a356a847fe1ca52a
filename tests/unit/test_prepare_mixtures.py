"""Simulated mixtures that are stored: plans, rooms, pairs, conversations."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lhotse import MonoCut, Recording, SupervisionSegment

from unispeech.__main__ import guard
from unispeech.config import load
from unispeech.data.config import MixtureDataConfig
from unispeech.data.loading import batches
from unispeech.data.manifests import load_cuts, speaker, transcript, write_cuts
from unispeech.data.mixtures import MixtureTraining, group_rooms, read_mixture

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import prepare_folder  # noqa: E402
import prepare_mixtures  # noqa: E402
import sessions  # noqa: E402
from libricss import CONDITIONS  # noqa: E402
from mixture_config import SimulationConfig  # noqa: E402

RATE = 16000
SMALL = ["rooms.t60=[0.1,0.12]", "rooms.distance=[0.5,0.8]", "conversations.speakers=2",
         "conversations.utterances=6", "conversations.snr=[12,12]",
         "conversations.conditions=[0S,OV20,OV40]"]  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three utterances of each of four speakers."""
    folder = tmp_path_factory.mktemp("utterances")
    rng = np.random.default_rng(0)
    cuts = []
    for number in range(12):
        name, who = f"u{number:02d}", f"s{number % 4}"
        audio = rng.uniform(-0.3, 0.3, round(rng.uniform(0.8, 1.6) * RATE))
        soundfile.write(folder / f"{name}.wav", audio, RATE)
        cut = Recording.from_file(folder / f"{name}.wav", recording_id=name).to_cut()
        told = SupervisionSegment(name, name, 0.0, cut.duration, text=f"W{number}", speaker=who)
        cuts.append(MonoCut(name, 0.0, cut.duration, 0, [told], recording=cut.recording))
    write_cuts(cuts, folder / "u.jsonl.gz")
    return folder / "u.jsonl.gz"


def prepare(kind: str, output: Path, *more: object) -> int:
    options = [kind, "--output", str(output), *map(str, more)]
    return guard(lambda: prepare_mixtures.main(options))


LENGTHS = st.lists(st.integers(2000, 12000), min_size=2, max_size=10)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.sampled_from(list(CONDITIONS)), st.integers(2, 4), st.integers(0, 2**31))
def test_plans(lengths: list[int], name: str, people: int, seed: int) -> None:
    """Never three at once, nobody over themselves, the overlap that was asked for, the pauses."""
    condition = CONDITIONS[name]
    rng = np.random.default_rng(seed)
    who = [str(number % people) for number in range(len(lengths))]
    starts = sessions.plan_starts(lengths, who, condition, rng)
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    lines = {one: np.zeros(max(ends)) for one in who}
    for one, start, end in zip(who, starts, ends, strict=True):
        lines[one][start:end] += 1
    together = np.sum(list(lines.values()), axis=0)
    assert max(line.max() for line in lines.values()) == 1
    assert together.max() <= 2
    share = (together == 2).sum() / (together > 0).sum()
    assert share == pytest.approx(sessions.overlapped_share(starts, lengths))
    pairs = zip(lengths, lengths[1:], strict=False)
    most = sum(min(pair) // 2 for pair in pairs)
    reachable = most / (sum(lengths) - most)
    assert share == pytest.approx(min(condition.overlap, reachable), abs=0.002)
    low, high = condition.pause
    for end, start in zip(ends, starts[1:], strict=False):
        assert start <= end or low * RATE - 1 <= start - end <= high * RATE + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 2**31))
def test_nobody_speaks_twice_in_a_row_where_that_is_possible(counts: list[int], seed: int) -> None:
    assume(max(counts) <= sum(counts) - max(counts) + 1)
    cuts = []
    for person, count in enumerate(counts):
        for number in range(count):
            told = [SupervisionSegment("s", "r", 0, 1, speaker=str(person))]
            cuts.append(MonoCut(f"{person}-{number}", 0, 1, 0, told))
    turns = sessions.order_turns(cuts, np.random.default_rng(seed))
    assert sorted(cut.id for cut in turns) == sorted(cut.id for cut in cuts)
    people = [speaker(cut) for cut in turns]
    assert all(one != other for one, other in zip(people, people[1:], strict=False))


def test_conversations(manifest: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        assert prepare("conversations", out, "--manifest", manifest, "--jobs", jobs, *SMALL) == 0
    whole = load_cuts(tmp_path / "1/continuous.jsonl.gz")
    pieces = {cut.id: cut for cut in load_cuts(tmp_path / "1/utterance.jsonl.gz")}
    assert [cut.custom["condition"] for cut in whole] == ["0S"] * 2 + ["OV20"] * 2 + ["OV40"] * 2
    assert len(pieces) == 3 * 12
    for cut in whole:
        assert cut.recording.num_channels == 7
        turns = sorted(cut.supervisions, key=lambda s: s.start)
        assert cut.custom["speakers"] == list(dict.fromkeys(s.speaker for s in turns))
        wanted = CONDITIONS[cut.custom["condition"]].overlap
        assert cut.custom["overlap"] == pytest.approx(wanted, abs=0.01)
        mixture, references, noise = read_mixture(cut)
        present = (np.abs(references) > 0).any(axis=0)
        ratio = np.mean(references.sum(axis=0)[present] ** 2) / np.mean(noise**2)
        assert 10 * np.log10(ratio) == pytest.approx(12.0, abs=1.5)
        for told in cut.supervisions:
            piece = pieces.pop(told.id)
            assert (transcript(piece), speaker(piece)) == (told.text, told.speaker)
            assert piece.custom["condition"] == cut.custom["condition"]
            assert piece.custom["speakers"] == [told.speaker]
            begin = round(told.start * RATE)
            span = slice(begin, begin + piece.num_samples)
            own, heard, _ = read_mixture(piece)
            assert np.array_equal(own, mixture[span])
            row = cut.custom["speakers"].index(told.speaker)
            assert np.array_equal(heard[0], references[row, span])
    assert pieces == {}
    texts = [sorted(s.text for s in cut.supervisions) for cut in whole]
    assert texts[0] == texts[2]  # the same turns in another condition
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.flac"))
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_rooms_and_pairs_are_what_a_training_takes(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = ("--count", 3, "--positions", 2, *SMALL)
    assert prepare("rooms", tmp_path / "rooms", *bank) == 0
    rir = tmp_path / "rooms/rir.jsonl.gz"
    assert [len(room) for room in group_rooms(load_cuts(rir))] == [2, 2, 2]
    more = ("--manifest", manifest, "--copies", 2, "pairs.seconds=1.5", "pairs.min_seconds=0.1",
            f"pairs.rir={rir}", "pairs.snr=[5,5]")  # fmt: skip
    assert prepare("pairs", tmp_path / "pairs", *more) == 0
    assert prepare("pairs", tmp_path / "pairs", *more) == 0
    assert "skipped" in capsys.readouterr().out
    pairs = load_cuts(tmp_path / "pairs/pairs.jsonl.gz")
    assert len(pairs) == 24
    assert {len(cut.custom["references"]) for cut in pairs} == {1, 2}
    config = MixtureDataConfig.model_validate(
        {"train": str(manifest), "valid": str(tmp_path / "pairs/pairs.jsonl.gz"), "seconds": 1.5,
         "min_seconds": 0.1, "rir": str(rir), "batching": {"size": 8}}
    )  # fmt: skip
    training = MixtureTraining(config, 1)
    assert next(batches(training.dataset, training.stream(), 0)).wavs.shape == (8, 24000)
    assert [len(batch.ids) for batch in training.valid_batches()] == [8, 8, 8]
    for cut in pairs:
        _, sources, noise = read_mixture(cut)
        assert np.mean(sources.sum(axis=0) ** 2) > np.mean(noise**2)


def test_what_can_be_wrong(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given_ = ("--manifest", manifest)
    for kind, options, code, message in (
        ("conversations", given_, 65, "too few speakers for a conversation; expected 8"),
        ("conversations", (), 2, "--manifest is missing"),
        ("rooms", given_, 2, "--manifest is not for rooms"),
        ("rooms", ("--count", 0), 2, "must be at least 1"),
        ("conversations", (*given_, "conversations.conditions=[OV50]"), 78, "0S, 0L, OV10"),
        ("pairs", (*given_, "pairs.noise=nowhere.jsonl.gz"), 65, "no such manifest"),
        ("pairs", (*given_, "pairs.second=3"), 78, "did you mean 'seconds'?"),
    ):
        assert prepare(kind, tmp_path / "o", *options) == code
        assert message in capsys.readouterr().err
        assert not (tmp_path / "o").exists()
    cuts = list(load_cuts(manifest))
    soundfile.write(tmp_path / "z.wav", np.zeros(cuts[0].num_samples), RATE)
    cuts[0].recording.sources[0].source = str(tmp_path / "z.wav")
    write_cuts(cuts, tmp_path / "z.jsonl.gz")
    options = ("--manifest", tmp_path / "z.jsonl.gz", *SMALL)
    assert prepare("conversations", tmp_path / "o", *options) == 65
    assert "utterance u00" in (error := capsys.readouterr().err)
    assert "all samples are zero" in error
    assert error.count("\n") == 1
    (tmp_path / "p").mkdir()
    (tmp_path / "p/thesis.txt").write_text("years of work")
    assert prepare("rooms", tmp_path / "p", "--count", 1) == 2
    assert (tmp_path / "p/thesis.txt").is_file()


@pytest.mark.parametrize("name", ["tiny", "mini", "conformer", "wavlm_base_plus", "wavlm_large"])
def test_shipped_settings(name: str) -> None:
    load(SimulationConfig, [ROOT / f"egs/libricss/conf/{name}/mixtures.yaml"])


def test_real_speakers(real_data: Path, tmp_path: Path) -> None:
    """The shipped small recipe: nobody of dev and test in train, the conditions it is for."""
    conf = ROOT / "egs/libricss/conf/mini"
    options = ["--corpora", str(real_data), "--output", str(tmp_path / "m")]
    assert guard(lambda: prepare_folder.main([*options, "--sets", str(conf / "sets.yaml")])) == 0
    sets = {name: load_cuts(tmp_path / f"m/{name}.jsonl.gz") for name in ("train", "dev", "test")}
    people = {name: {speaker(cut) for cut in cuts} for name, cuts in sets.items()}
    assert len(people["train"]) > 150
    assert not people["train"] & people["test"]
    assert not people["dev"] & (people["train"] | people["test"])
    config = load(SimulationConfig, [conf / "mixtures.yaml"])
    groups = prepare_mixtures.deal(list(sets["test"]), config, 1)
    assert sorted(cut.id for group in groups for cut in group) == sorted(sets["test"].ids)
    rng = np.random.default_rng(0)
    for group in groups:
        assert len({speaker(cut) for cut in group}) == 2
        turns = sessions.order_turns(group, rng)
        lengths = [cut.num_samples for cut in turns]
        whom = [speaker(cut) for cut in turns]
        starts = sessions.plan_starts(lengths, whom, CONDITIONS["OV40"], rng)
        assert sessions.overlapped_share(starts, lengths) > 0.35

"""Manifests and audio reading, against lhotse's own readers; every error names cut and file."""

import gzip
import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet, Recording, SupervisionSegment

from unispeech.data import manifests
from unispeech.errors import DataError
from unispeech.storage import sha256


def make_cut(path, utterance="u1", text="A B", speaker="s1"):
    recording = Recording.from_file(path, recording_id=utterance)
    cut = recording.to_cut()
    cut.id = utterance
    cut.supervisions = [
        SupervisionSegment(utterance, utterance, 0.0, cut.duration, text=text, speaker=speaker)
    ]
    return cut


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "u1.flac"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 24000)
    soundfile.write(path, noise, 16000, subtype="PCM_16")
    return path


def test_written_manifest_is_what_lhotse_reads(wave, tmp_path):
    cuts = [make_cut(wave, "u1"), make_cut(wave, "u2", text="")]
    manifests.write_cuts(cuts, tmp_path / "a.jsonl.gz")
    peer = list(CutSet.from_file(tmp_path / "a.jsonl.gz"))
    assert peer == cuts == list(manifests.load_cuts(tmp_path / "a.jsonl.gz"))
    assert [manifests.transcript(c) for c in peer] == ["A B", ""]
    assert [manifests.speaker(c) for c in peer] == ["s1", "s1"]


def test_equal_cuts_give_equal_bytes_under_any_name(wave, tmp_path, monkeypatch):
    manifests.write_cuts([make_cut(wave)], tmp_path / "a.jsonl.gz")
    monkeypatch.setattr("time.time", lambda: 1e9)
    manifests.write_cuts([make_cut(wave)], tmp_path / "b.jsonl.gz")
    assert sha256(tmp_path / "a.jsonl.gz") == sha256(tmp_path / "b.jsonl.gz")


def test_several_manifests_keep_their_order(wave, tmp_path):
    for name in "ba":
        manifests.write_cuts([make_cut(wave, name)], tmp_path / f"{name}.jsonl.gz")
    files = [tmp_path / "b.jsonl.gz", tmp_path / "a.jsonl.gz"]
    assert [cut.id for cut in manifests.load_cuts(files)] == ["b", "a"]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 15999), st.integers(1, 8000))
def test_audio_equals_lhotse_for_any_part_of_a_file(wave, start, length):
    cut = make_cut(wave).truncate(offset=start / 16000, duration=length / 16000)
    audio = manifests.read_audio(cut)
    assert audio.dtype == np.float32
    np.testing.assert_array_equal(audio, cut.load_audio()[0])


def break_manifest(kind, path, cut):
    manifests.write_cuts([cut], path)
    data = path.read_bytes()
    item = {"id": "x", "type": "MonoCut"}
    contents = {
        "truncated": data[: len(data) // 2],
        "not gzip": b"hello",
        "not json": gzip.compress(b"{"),
        "not a cut": gzip.compress(b'{"id": "r", "type": "Cat"}\n'),
        "half a cut": gzip.compress(json.dumps(item).encode()),
        "empty": gzip.compress(b""),
    }
    path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    "kind", ["truncated", "not gzip", "not json", "not a cut", "half a cut", "empty"]
)
def test_damaged_manifest_is_named_with_a_remedy(kind, wave, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    break_manifest(kind, path, make_cut(wave))
    with pytest.raises(DataError) as caught:
        manifests.load_cuts(path)
    assert str(path) in str(caught.value)
    assert "stage that prepares" in str(caught.value)


def test_missing_manifest_and_repeated_ids(wave, tmp_path):
    with pytest.raises(DataError, match="no such manifest"):
        manifests.load_cuts(tmp_path / "no.jsonl.gz")
    for name in "ab":
        manifests.write_cuts([make_cut(wave)], tmp_path / f"{name}.jsonl.gz")
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: utterance u1 is there also in .*a\.jsonl"):
        manifests.load_cuts([tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"])


def rewrite(path, kind):
    tone = np.full(16000, 0.1)
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "not audio":
        path.write_bytes(b"nothing to hear here")
    elif kind == "rate":
        soundfile.write(path, tone, 8000)
    elif kind == "stereo":
        soundfile.write(path, np.stack([tone, tone], 1), 16000)
    elif kind == "short":
        soundfile.write(path, tone[:4000], 16000)
    elif kind == "empty":
        # An empty FLAC file has no header that libsndfile reads, an empty WAV file has.
        soundfile.write(path, tone[:0], 16000, format="WAV")
    else:
        tone[7] = {"nan": np.nan, "inf": np.inf}[kind]
        # libsndfile chooses by the suffix unless told; only WAV holds floating point.
        soundfile.write(path, tone, 16000, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such audio file"),
        ("truncated", "damaged audio file|shorter than the manifest"),
        ("not audio", "damaged audio file"),
        ("rate", "wrong sampling rate.*16000 Hz.*8000 Hz.*ffmpeg"),
        ("stereo", "more than one channel.*2 channels.*ffmpeg"),
        ("short", "shorter than the manifest says.*16000 samples.*4000"),
        ("empty", "empty audio"),
        ("nan", "NaN or infinite samples"),
        ("inf", "NaN or infinite samples"),
    ],
)
def test_bad_audio_names_cut_file_and_reason(kind, reason, tmp_path):
    path = tmp_path / "sound.flac"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 16000)
    soundfile.write(path, noise, 16000)
    cut = make_cut(path, "utt-7")
    rewrite(path, kind)
    with pytest.raises(DataError, match=reason) as caught:
        manifests.read_audio(cut)
    assert "utt-7" in str(caught.value)
    assert str(path) in str(caught.value)

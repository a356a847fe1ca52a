"""Phones of sentences against published transcripts, and vocabularies of one and more languages."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from lhotse import MonoCut, SupervisionSegment

from unispeech.__main__ import guard
from unispeech.data.manifests import load_cuts, phones, write_cuts
from unispeech.data.tokens import Tokenizer
from unispeech.score.wer import wer
from unispeech.storage import sha256

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import phonemise  # noqa: E402

pytest.importorskip("phonemizer")
pytest.importorskip("espeakng_loader")

SENTENCES = {
    "en": "The cat sleeps.",
    "fr": "Le chat dort.",
    "it": "Ciao, bella!",
    "es": "¡Buenos días!",
    "ky": "Кыргыз тили.",
}


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("Ik haat verraders.", "ɪ k h aː t v ə r r aː d ə r s"),
        ("Zullen we vanavond voetballen?", "z ɵ l ə n ʋ ə v ɑ n aː v ɔ n t v u t b ɑ l ə n"),
        (
            "Hij verloor zichzelf in de virtuele wereld.",
            "h ɛɪ v ə r l oː r z ɪ x s ɛ l f ɪ n d ə v ɪ r t y eː l ə ʋ ɪː r ə l t",
        ),
    ],
)
def test_dutch_as_unispeech_published_it(text: str, published: str) -> None:
    """Lines of the phone transcripts of its Dutch validation list; no word boundaries."""
    assert phonemise.to_phones("nl", [text]) == [published]


@pytest.mark.parametrize("code", ["en", "es", "fr"])
def test_real_sentences_as_an_earlier_espeak_says_them(code: str, real_data: Path) -> None:
    """Against espeak-ng 1.51; ours is 1.52, which reads a few letters in another way."""
    with (real_data / "fleurs_mini" / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t") if r["lang"] == code]
    found = phonemise.to_phones(code, [row["text"] for row in rows])
    peer = {r["utt_id"]: " ".join(p for p in r["phones"].split() if p != "|") for r in rows}
    assert len(peer) == 8
    assert wer(peer, dict(zip(peer, found, strict=True)), resamples=0).rate < 0.5


def test_every_language_has_a_voice() -> None:
    for code in phonemise.LANGUAGES:
        assert phonemise.to_phones(code, ["a o"])[0].split()


def test_foreign_words_leave_no_flags() -> None:
    (line,) = phonemise.to_phones("fr", ["le weekend"])
    assert "(" not in line
    assert line.split()[:2] == ["l", "ə"]


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Manifests as the preparation writes them: en, fr and it as sources, es as target."""
    folder = tmp_path / "man ifests"
    sets = {f"{c}-{part}": c for c in ("en", "fr", "it") for part in ("train", "dev")}
    sets |= dict.fromkeys(("train", "dev", "test", "pretrain"), "es")
    for name, code in sets.items():
        text = SENTENCES[code] if name != "pretrain" else ""
        words = SupervisionSegment(name, name, 0.0, 1.0, text=text, language=code, speaker=name)
        write_cuts([MonoCut(name, 0.0, 1.0, 0, supervisions=[words])], folder / f"{name}.jsonl.gz")
    return folder


def run(manifests: Path, *more: str, source: str = "en fr it") -> int:
    out = manifests.parent
    places = [
        "--manifests",
        str(manifests),
        "--output",
        str(out / "data"),
        "--lang",
        str(out / "l"),
    ]
    languages = ["--lang", str(out / "l"), "--source", *source.split(), "--target", "es"]
    return guard(lambda: phonemise.main([*places, *languages, *more]))


def said(manifests: Path, name: str) -> list[str]:
    (cut,) = load_cuts(manifests.parent / "data" / f"{name}.jsonl.gz")
    return phones(cut).split()


def tokenizer(manifests: Path, name: str) -> Tokenizer:
    return Tokenizer(manifests.parent / "l" / name / "tokens.txt", "phones")


def test_separate_vocabularies_tag_phones_with_their_language(manifests) -> None:
    assert run(manifests) == 0
    assert said(manifests, "it-train") == [f"it:{p}" for p in "tʃ a o b ɛ l l a".split()]
    source = tokenizer(manifests, "source")
    assert {token.split(":")[0] for token in source.tokens[1:]} == {"en", "fr", "it"}
    for code in ("en", "fr", "it"):
        assert source.unknown(" ".join(said(manifests, f"{code}-dev"))) == set()
    assert said(manifests, "test") == "b w e n o s ð i a s".split()
    assert set(tokenizer(manifests, "target").tokens[1:]) == set(said(manifests, "test"))
    assert said(manifests, "pretrain") == []


def test_a_shared_vocabulary_is_the_union(manifests) -> None:
    assert run(manifests, "--vocabulary", "shared") == 0
    union = {p for code in ("en", "fr", "it") for p in said(manifests, f"{code}-train")}
    assert set(tokenizer(manifests, "source").tokens[1:]) == union
    assert "|" not in union


def test_one_source_needs_no_tags(manifests) -> None:
    assert run(manifests, source="en") == 0
    assert said(manifests, "en-train") == "ð ə k æ t s l iː p s".split()


def several(manifests: Path, *more: str) -> int:
    """Es and ky as targets: their sets begin with the language."""
    for code in ("es", "ky"):
        for part in ("train", "dev", "test", "pretrain"):
            text = SENTENCES[code] if part != "pretrain" else ""
            name = f"{code}_{part}"
            words = SupervisionSegment(name, name, 0.0, 1.0, text=text, language=code, speaker=name)
            cuts = [MonoCut(name, 0.0, 1.0, 0, supervisions=[words])]
            write_cuts(cuts, manifests / f"{name}.jsonl.gz")
    out = manifests.parent
    places = ["--manifests", str(manifests), "--output", str(out / "data"), "--lang"]
    languages = [str(out / "l"), "--source", "en", "--target", "es", "ky"]
    return guard(lambda: phonemise.main([*places, *languages, *more]))


def test_several_targets_have_a_vocabulary_each(manifests) -> None:
    assert several(manifests) == 0
    for code in ("es", "ky"):
        table = tokenizer(manifests, f"target_{code}")
        assert set(table.tokens[1:]) == set(said(manifests, f"{code}_test"))
        assert said(manifests, f"{code}_pretrain") == []
    assert said(manifests, "es_train") == "b w e n o s ð i a s".split()


@pytest.mark.parametrize("vocabulary", ["separate", "shared"])
def test_targets_of_one_model_have_one_vocabulary(manifests, vocabulary: str) -> None:
    assert several(manifests, "--together", "--vocabulary", vocabulary) == 0
    sets = {code: said(manifests, f"{code}_dev") for code in ("es", "ky")}
    tags = {code: code if vocabulary == "separate" else "" for code in sets}
    for code, phones_of in sets.items():
        assert {p.rpartition(":")[0] for p in phones_of} == {tags[code]}
    table = tokenizer(manifests, "target").tokens[1:]
    assert set(table) == {*sets["es"], *sets["ky"]}
    assert not (manifests.parent / "l" / "target_es").exists()


def test_done_once_and_again_when_a_manifest_changes(manifests, capsys, monkeypatch) -> None:
    assert run(manifests) == 0
    data = manifests.parent / "data"
    before = {path.name: sha256(path) for path in data.iterdir()}
    capsys.readouterr()
    assert run(manifests) == 0
    assert "skipped" in capsys.readouterr().out
    # Sentences that are known are not computed again.
    monkeypatch.setattr(phonemise, "to_phones", None)
    (data / "prepared.json").unlink()
    assert run(manifests) == 0
    assert {path.name: sha256(path) for path in data.iterdir()} == before


def test_sentences_without_phones_are_dropped_and_listed(manifests) -> None:
    words = [
        SupervisionSegment(n, n, 0.0, 1.0, text=text, language="es", speaker="s")
        for n, text in (("a", "..."), ("b", "Hola."))
    ]
    cuts = [MonoCut(s.id, 0.0, 1.0, 0, supervisions=[s]) for s in words]
    write_cuts(cuts, manifests / "train.jsonl.gz")
    assert run(manifests) == 0
    assert said(manifests, "train") == "o l a".split()
    listed = (manifests.parent / "data" / "dropped.tsv").read_text(encoding="utf-8")
    assert listed.splitlines()[1:] == ["es\ta\tno phones"]


def test_errors(manifests, capsys) -> None:
    assert run(manifests, source="en tt") == 65
    assert "tt-train.jsonl.gz: no such manifest" in capsys.readouterr().err
    assert run(manifests, source="english") == 2
    assert "no language 'english'" in capsys.readouterr().err


def test_missing_package(manifests, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert run(manifests) == 69
    assert "pip install" in capsys.readouterr().err
    assert not (manifests.parent / "data").exists()

"""Letters, pieces and phones: each from a text to tokens, a graph and back to the right words."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lhotse import MonoCut, SupervisionSegment

from unispeech.__main__ import guard, main
from unispeech.data.manifests import load_cuts, phones, write_cuts
from unispeech.data.tokens import Tokenizer
from unispeech.decode.emissions import EmissionReader, EmissionWriter
from unispeech.decode.graph import read_language
from unispeech.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))

import add_phones  # noqa: E402
import prepare_lang  # noqa: E402
import units as local_units  # noqa: E402

pytest.importorskip("kaldifst", reason="graphs are built with kaldifst")
pytest.importorskip("kaldi_decoder", reason="the back-end kaldi needs kaldi-decoder")

SENTENCES = [
    "THE READER READ A TALE",
    "A TAIL HE READS",
    "READ THE TALE TO HER",
    "HE TOO HEARD A READER",
]
# As in LibriSpeech's lexicon: words with several pronunciations, words that sound alike, and one
# that begins another.
LEXICON = """\
A\tAH0
A\tEY1
THE DH AH0
THE  DH IY0
READ\tR EH1 D
READ\tR IY1 D
READS\tR IY1 D Z
READER\tR IY1 D ER0
TALE\tT EY1 L
TAIL\tT EY1 L
HE\tHH IY1
HER\tHH ER1
HEARD\tHH ER1 D
TO\tT UW1
TOO\tT UW1
"""


def write_manifest(folder: Path, name: str, sentences: list[str]) -> Path:
    cuts = []
    for number, text in enumerate(sentences):
        utterance = f"u{number:02d}"
        words = SupervisionSegment(utterance, utterance, 0.0, 1.0, text=text, speaker="s")
        cuts.append(MonoCut(utterance, 0.0, 1.0, 0, supervisions=[words]))
    write_cuts(cuts, folder / f"{name}.jsonl.gz")
    return folder / f"{name}.jsonl.gz"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("text"), "train", SENTENCES)


def make_lang(text: Path, output: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> int:
    words = ["prepare_lang.py", "--text", str(text), "--output", str(output), "--order", "2", *more]
    monkeypatch.setattr(sys, "argv", words)
    return guard(prepare_lang.main)


@pytest.fixture(scope="module")
def langs(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language folder of each kind of unit, made from the same text."""
    root = tmp_path_factory.mktemp("langs")
    (root / "lexicon.txt").write_text(LEXICON)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for unit, more in (
            ("letters", []),
            ("bpe", ["--pieces", "24", "--rescore-order", "3"]),
            ("phones", ["--lexicon", str(root / "lexicon.txt")]),
        ):
            found[unit] = root / unit
            assert make_lang(text, found[unit], "--units", unit, *more, monkeypatch=patch) == 0
    return found


def perfect(path: list[int], size: int) -> np.ndarray:
    """Log-probabilities (frames, tokens) of a path, a blank before every token."""
    frames = [label for token in path for label in (0, token, token)] or [0]
    log_probs = np.full((len(frames), size), np.log(1e-6 / size), np.float32)
    log_probs[np.arange(len(frames)), frames] = np.log(1 - 1e-6)
    return log_probs


def emit(folder: Path, lang: Path, unit: str, paths: dict[str, list[int]]) -> None:
    tokens = Tokenizer(lang / "tokens.txt", unit).tokens
    with EmissionWriter(folder, tokens, 0.02, {"units": unit}) as writer:
        for name, path in paths.items():
            writer.write(name, perfect(path, len(tokens)))


def decoded(folder: Path) -> list[str]:
    lines = (folder / "text").read_text(encoding="utf-8").splitlines()
    return [line.partition(" ")[2] for line in lines]


@pytest.mark.parametrize("unit", ["letters", "bpe", "phones"])
def test_perfect_emissions_give_the_words(
    unit: str, text: Path, langs: dict[str, Path], tmp_path: Path
) -> None:
    """Greedily the words or phones; by the graph the words; and the rates are 0."""
    lang, data = langs[unit], text
    if unit == "phones":
        places = ["--manifests", str(text.parent), "--output", str(tmp_path / "data")]
        assert (
            guard(lambda: add_phones.main([*places, "--lexicon", str(lang / "lexicon.txt")])) == 0
        )
        data = tmp_path / "data" / "train.jsonl.gz"
    tokenizer = Tokenizer(lang / "tokens.txt", unit)
    cuts = list(load_cuts(data))
    targets = [phones(cut) if unit == "phones" else cut.supervisions[0].text for cut in cuts]
    emissions = tmp_path / "emissions"
    paths = {c.id: tokenizer.encode(t) for c, t in zip(cuts, targets, strict=True)}
    emit(emissions, lang, unit, paths)
    assert EmissionReader(emissions).units == unit
    greedy, graph = emissions / "greedy", emissions / "graph"
    base = ["decode", "--emissions", str(emissions)]
    assert main([*base, "--method", "greedy", "--output", str(greedy)]) == 0
    more = ["--method", "graph", "--lang", str(lang), "--backend", "kaldi", "lm_scale=0.5"]
    assert main([*base, *more, "--output", str(graph)]) == 0
    assert decoded(greedy) == targets
    assert decoded(graph) == SENTENCES
    assert main(["score", "--reference", str(data), "--hypothesis", str(greedy), str(graph)]) == 0
    metric = "per" if unit == "phones" else "wer"
    assert f'"{metric}": 0.0' in (greedy / f"{metric}.json").read_text()
    assert '"wer": 0.0' in (graph / "wer.json").read_text()


def test_pieces_from_manifest_to_word_error_rate(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through fine-tuning, emissions, both decodings and scoring."""
    lang, init, model = (tmp_path / name for name in ("lang", "init", "model"))
    more = ["--units", "bpe", "--pieces", "6"]
    assert make_lang(corpus.train, lang, *more, monkeypatch=monkeypatch) == 0
    few = ["train.updates=1", "train.validate_every=1"]
    pretrain = ["pretrain", "--config", str(corpus.pretrain), "--output", str(init)]
    assert main([*pretrain, *corpus.overrides(), *few]) == 0
    finetune = ["finetune", "--config", str(corpus.finetune), "--output", str(model)]
    overrides = [*corpus.ctc_overrides(init), f"data.tokens={lang}/tokens.txt", "data.units=bpe"]
    assert main([*finetune, *overrides, *few]) == 0
    assert "wer" in (model / "metrics.jsonl").read_text().splitlines()[-1]
    out = tmp_path / "out"
    assert main(["emit", "--model", str(model), "--output", str(out), str(corpus.valid)]) == 0
    assert EmissionReader(out).units == "bpe"
    for method, options in (("greedy", []), ("graph", ["--lang", str(lang), "--backend", "kaldi"])):
        decode = ["decode", "--emissions", str(out), "--method", method, *options]
        assert main([*decode, "--output", str(out / method)]) == 0
        score = ["score", "--reference", str(corpus.valid), "--hypothesis", str(out / method)]
        assert main(score) == 0
        assert (out / method / "wer.json").is_file()


def test_every_pronunciation_is_a_path(langs: dict[str, Path], tmp_path: Path) -> None:
    lang = langs["phones"]
    tokenizer = Tokenizer(lang / "tokens.txt", "phones")
    said = {"a": "DH IY R IY D ER R IY D AH T EY L", "b": "DH AH R IY D ER R EH D EY T EY L"}
    emit(tmp_path, lang, "phones", {n: tokenizer.encode(p) for n, p in said.items()})
    options = ["--method", "graph", "--lang", str(lang), "--output", str(tmp_path / "graph")]
    assert main(["decode", "--emissions", str(tmp_path), *options, "--backend", "kaldi"]) == 0
    assert decoded(tmp_path / "graph") == ["THE READER READ A TALE"] * 2


def test_phones_of_a_lexicon_lose_their_stress(langs: dict[str, Path]) -> None:
    language = read_language(langs["phones"])
    assert language.tokens[0] == "<blk>"
    expected = {re.sub(r"\d", "", p) for line in LEXICON.splitlines() for p in line.split()[1:]}
    assert set(language.tokens[1:]) == expected | {"SPN"}
    readings = [phones for word, phones in language.lexicon if word == "READ"]
    assert readings == [("R", "EH", "D"), ("R", "IY", "D")]


def test_stress_and_cmudict_numbers(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("READ R EH1 D\nREAD(2) R IY1 D\nREAD(3) R IY0 D\n")
    path = str(tmp_path / "l.txt")
    assert local_units.read_pronunciations(path, keep_stress=True) == [
        ("READ", ("R", "EH1", "D")), ("READ", ("R", "IY1", "D")), ("READ", ("R", "IY0", "D")),
    ]  # fmt: skip
    assert len(local_units.read_pronunciations(path, keep_stress=False)) == 2


def test_unknown_words_have_the_phone_of_noise(langs: dict[str, Path], tmp_path: Path) -> None:
    write_manifest(tmp_path / "m", "test", ["HE READS ZYZZYVAS"])
    lexicon = str(langs["phones"] / "lexicon.txt")
    places = ["--manifests", str(tmp_path / "m"), "--lexicon", lexicon, "--output"]
    assert guard(lambda: add_phones.main([*places, str(tmp_path / "data")])) == 0
    (cut,) = load_cuts(tmp_path / "data" / "test.jsonl.gz")
    assert phones(cut) == "HH IY R IY D Z SPN"
    assert guard(lambda: add_phones.main([*places, str(tmp_path / "m")])) == 2


def test_pieces_are_sentencepieces_own(langs: dict[str, Path]) -> None:
    """Ours go word by word; the library takes whole sentences."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(langs["bpe"] / "bpe.model"))
    tokenizer = Tokenizer(langs["bpe"] / "tokens.txt", "bpe")
    assert len(tokenizer) == model.get_piece_size()
    lexicon = dict(read_language(langs["bpe"]).lexicon)
    for sentence in SENTENCES:
        pieces = model.encode_as_pieces(sentence)
        assert [tokenizer.tokens[i] for i in tokenizer.encode(sentence)] == pieces
        assert [p for word in sentence.split() for p in lexicon[word]] == pieces
    # Frequent words are one piece, and pieces are fewer than letters.
    assert "\u2581READ" in tokenizer.tokens
    assert sum(map(len, lexicon.values())) < sum(map(len, lexicon))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(words=st.lists(st.text("THEREADOLSI", min_size=1), max_size=5))
def test_pieces_round_trip(langs: dict[str, Path], words: list[str]) -> None:
    tokenizer = Tokenizer(langs["bpe"] / "tokens.txt", "bpe")
    text = " ".join(words)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_letters_the_text_lacks_are_unknown_pieces(langs: dict[str, Path]) -> None:
    tokenizer = Tokenizer(langs["bpe"] / "tokens.txt", "bpe")
    assert "Ü" in "".join(tokenizer.unknown("THE ÜBER"))
    with pytest.raises(DataError, match="not tokens"):
        tokenizer.encode("THE ÜBER")


def test_a_larger_model_for_rescoring(langs: dict[str, Path]) -> None:
    assert "ngram 3=" in (langs["bpe"] / "rescore.arpa").read_text()
    assert "ngram 3=" not in (langs["bpe"] / "lm.arpa").read_text()


def test_done_once_and_again_when_a_file_is_gone(
    text: Path,
    langs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--units", "bpe", "--pieces", "24", "--rescore-order", "3"]
    before = (langs["bpe"] / "bpe.model").read_bytes()
    assert make_lang(text, langs["bpe"], *more, monkeypatch=monkeypatch) == 0
    assert "skipped" in capsys.readouterr().out
    (langs["bpe"] / "bpe.model").unlink()
    assert make_lang(text, langs["bpe"], *more, monkeypatch=monkeypatch) == 0
    assert (langs["bpe"] / "bpe.model").read_bytes() == before


def test_pronunciations_of_espeak(text: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("phonemizer")
    pytest.importorskip("espeakng_loader")
    assert make_lang(text, tmp_path / "l", "--units", "phones", monkeypatch=monkeypatch) == 0
    lexicon = dict(read_language(tmp_path / "l").lexicon)
    # Word by word; the capitals are words, not abbreviations.
    assert lexicon["HE"] == ("h", "iː")
    assert lexicon["TALE"] == lexicon["TAIL"] == ("t", "eɪ", "l")
    assert set(lexicon) == {word for line in SENTENCES for word in line.split()}


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--units", "bpe", "--pieces", "3"], 2, "--pieces is too small"),
        (["--units", "bpe", "--lexicon", "l"], 2, "--lexicon goes with"),
        (["--units", "phones", "--lexicon", "nowhere"], 65, "no such file"),
        (["--units", "phones", "--language", "xx"], 2, "no language 'xx'"),
    ],
)
def test_errors(
    text: Path,
    tmp_path: Path,
    more: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make_lang(text, tmp_path / "l", *more, monkeypatch=monkeypatch) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "l" / "tokens.txt").exists()


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_damaged_model_is_a_data_error(
    langs: dict[str, Path], tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "tokens.txt").write_bytes((langs["bpe"] / "tokens.txt").read_bytes())
    if content is not None:
        (tmp_path / "bpe.model").write_bytes(content)
    with pytest.raises(DataError, match=r"bpe\.model: not a model of sentencepiece"):
        Tokenizer(tmp_path / "tokens.txt", "bpe")


def test_a_piece_that_no_text_may_hold() -> None:
    with pytest.raises(DataError, match="reserved"):
        local_units.train_pieces([["A\u2581B"]], 20, Path("never written"))

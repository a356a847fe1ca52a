"""Training of language models, perplexity, and scorers against KenLM and closed forms."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import MonoCut, Recording, SupervisionSegment
from pairs import run_pair

from unispeech.__main__ import main
from unispeech.data.manifests import write_cuts
from unispeech.data.sampling import Position
from unispeech.data.text import Corpus, TextDataset, TextStream, plan
from unispeech.data.vocabulary import (
    SPECIAL,
    UNKNOWN,
    Vocabulary,
    build_vocabulary,
    read_sentences,
)
from unispeech.decode.arpa_reader import copy_arpa, ngrams_of, read_header
from unispeech.decode.ngram import read_arpa
from unispeech.decode.scorers import open_scorer, perplexity
from unispeech.errors import DataError, NumericsError
from unispeech.hub.language_model import load_language_model
from unispeech.models.pretrained import read_checkpoint

DATA = Path(__file__).parent / "data"
CONFIG = """
model: {layers: 1, dim: 16, ffn_dim: 32, heads: 2, input_cutoffs: [8], output_cutoffs: [8]}
data: {batch_units: 60}
optim: {lr: 1.0e-2, warmup: 2}
train: {updates: 8, log_every: 1, validate_every: 4, checkpoint_every: 2}
"""
WORDS = "one two three four five six seven eight nine".split()


class Text:
    """A text whose words follow each other in order, and options of a training on it."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        lines = []
        for _ in range(60):
            begin, count = rng.integers(0, 6), rng.integers(1, 7)
            lines.append(" ".join(WORDS[begin : begin + count]) + "\n")
        self.train, self.valid = folder / "train.txt.gz", folder / "valid.txt"
        with gzip.open(self.train, "wt") as file:
            file.writelines([*lines, "once\n"])
        self.valid.write_text("two three four\n\nfive six never\n")
        (folder / "lm.yaml").write_text(CONFIG)
        self.options = ["lm", "--config", str(folder / "lm.yaml"), f"data.train={self.train}"]
        self.options += [f"data.valid={self.valid}"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trained(words: Text, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm") / "run"
    assert main([*words.options, "--output", str(folder)]) == 0
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_learns_the_order_and_reports_the_perplexity_of_the_command(
    words: Text, trained: Path, tmp_path: Path
) -> None:
    valid = [row["perplexity"] for row in rows_of(trained) if row["phase"] == "valid"]
    assert valid[-1] < valid[0] < len(WORDS) * 4
    output = tmp_path / "p.json"
    options = ["perplexity", "--lm", str(trained), "--output", str(output), str(words.valid)]
    assert main(options) == 0
    (found,) = json.loads(output.read_text())["texts"]
    assert found["value"] == pytest.approx(min(valid), rel=1e-5)
    assert (found["words"], found["unknown"], found["sentences"]) == (6, 1, 2)


def test_half_precision_recomputed_and_other_units(words: Text, tmp_path: Path) -> None:
    options = [*words.options, "--output", str(tmp_path / "run"), "train.updates=3"]
    options += ["data.units=letters", "train.precision=bf16", "train.activation_checkpointing=true"]
    assert main([*options, "train.probe=true"]) == 0
    losses = [row["loss"] for row in rows_of(tmp_path / "run") if row["phase"] == "train"]
    assert losses[-1] < losses[0] < 2 * math.log(20)
    scorer = open_scorer(tmp_path / "run", "cpu")
    found = perplexity(scorer, ["one two", "zzz five"])
    assert (found.words, found.unknown) == (4, 1)
    assert found.known < found.value


def test_no_finite_probability_is_an_error(trained: Path) -> None:
    scorer = open_scorer(trained, "cpu")
    scorer.model.layer_norm.weight.data[0] = math.nan
    with pytest.raises(NumericsError, match="two three"):
        scorer.score(["two three"])


def test_continued_is_bitwise_the_same(
    words: Text, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unispeech.train import loop

    plain = loop._save

    def stopped(run, progress, score):
        plain(run, progress, score)
        if progress.step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", stopped)
    assert main([*words.options, "--output", str(tmp_path / "run")]) == 130
    monkeypatch.undo()
    assert main([*words.options, "--output", str(tmp_path / "run")]) == 0
    name = "checkpoints/step-00000008.pt"
    one, two = (read_checkpoint(folder / name)["model"] for folder in (trained, tmp_path / "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_two_processes_take_the_gradient_of_both_batches(
    words: Text, tmp_path: Path, repo: Path
) -> None:
    # With so large an epsilon a step is proportional to the gradient.
    common = ["train.updates=2", "optim.eps=1", "optim.lr=1", "optim.warmup=0"]
    common += ["model.dropout=0", "model.attention_dropout=0", "data.unknown_rate=0"]
    run_pair([*words.options, "--output", str(tmp_path / "two"), *common], repo)
    one = [*words.options, "--output", str(tmp_path / "one"), *common]
    assert main([*one, "train.accumulate=2"]) == 0
    first, second = (read_checkpoint(tmp_path / n / "checkpoints/final.pt") for n in ("one", "two"))
    for name, value in first["model"].items():
        torch.testing.assert_close(second["model"][name], value, atol=1e-5, rtol=1e-5)
    losses = [
        [row["loss"] for row in rows_of(tmp_path / n) if row["phase"] == "valid"]
        for n in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_finished_training_is_skipped_and_wrong_text_is_one_line(
    words: Text, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.options, "--output", str(trained)]) == 0
    assert "skipped" in capsys.readouterr().out
    half = tmp_path / "half.txt.gz"
    half.write_bytes(words.train.read_bytes()[:-30])
    for wrong in (half, tmp_path / "none.txt", "[]"):
        options = [*words.options, "--output", str(tmp_path / "new"), f"data.train={wrong}"]
        assert main(options) == 65
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    options = [*words.options, "--output", str(tmp_path / "new"), "model.input_cutoffs=[500]"]
    assert main([*options, "model.output_cutoffs=[500]"]) == 78
    assert "less than" in capsys.readouterr().err


def test_transformer_scores_do_not_depend_on_the_company(trained: Path) -> None:
    scorer = open_scorer(trained, "cpu")
    sentences = ["two three", "five", "six  seven eight ", "never five", "", "two three"]
    together = scorer.score(sentences)
    scorer.batch_units = 1
    scorer._known.clear()
    assert together == pytest.approx(scorer.score(sentences), abs=1e-5)
    model, vocabulary, _ = load_language_model(trained)
    with torch.no_grad():
        past, total = None, 0.0
        token = 2
        for following in [*vocabulary.encode("never five"), 2]:
            scores, past = model.step(torch.tensor([[token]]), past)
            total += float(scores[0, 0, following])
            token = following
    assert together[3] == pytest.approx(total, abs=1e-5)


def test_kenlm_scorer_equals_the_closed_form_model_and_kenlms_perplexity(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    path = DATA / "ngram_closed_form.arpa"
    scorer, own = open_scorer(path), read_arpa(path)
    lines = (DATA / "ngram_closed_form.txt").read_text().splitlines()[:20]
    for line, score in zip(lines, scorer.score(lines), strict=True):
        assert score == pytest.approx(math.log(10) * own.sentence_log10(line.split()), abs=1e-4)
    with_unknown = [*lines, f"unheard {lines[0]}"]
    found = perplexity(scorer, with_unknown)
    expected = own.perplexity([line.split() for line in with_unknown])
    assert found.known == pytest.approx(expected.value, rel=1e-5)
    assert (found.words, found.unknown, found.sentences) == (expected.words, 1, 21)
    assert perplexity(scorer, lines[:1]).value == pytest.approx(
        kenlm.Model(str(path)).perplexity(lines[0]), rel=1e-5
    )
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert open_scorer(packed).score(lines) == pytest.approx(scorer.score(lines))


@pytest.mark.parametrize("damage", ["half", "no end", "packed half", "not a model", "empty"])
def test_damaged_ngrams_are_one_line(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Text
) -> None:
    whole = (DATA / "ngram_fallback.arpa").read_bytes()
    contents = {
        "half": whole[: len(whole) // 2],
        "no end": whole.replace(b"\\end\\", b""),
        "packed half": gzip.compress(whole)[:-40],
        "not a model": b"This is no language model.\n" * 50,
        "empty": b"",
    }
    path = tmp_path / "lm.arpa"
    path.write_bytes(contents[damage])
    with pytest.raises(DataError, match="not an ARPA file"):
        read_header(path)
    with pytest.raises(DataError, match="not an ARPA file"):
        copy_arpa(path, tmp_path / "copy.arpa")
    assert not (tmp_path / "copy.arpa").exists()
    pytest.importorskip("kenlm")
    assert main(["perplexity", "--lm", str(path), str(words.valid)]) == 65
    error = capsys.readouterr().err
    assert "not an n-gram model, or not a whole one" in error
    assert len(error.strip().splitlines()) == 1


def test_missing_model_and_other_checkpoints(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(DataError, match="no such language model"):
        open_scorer(tmp_path / "nothing")
    with pytest.raises(DataError, match="no language model in this folder"):
        open_scorer(tmp_path)
    torch.save({"model": {"encoder.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="not a language model"):
        open_scorer(tmp_path / "other.pt")


def test_arpa_streams_words_and_the_ngrams_of_some_sentences(tmp_path: Path) -> None:
    path = DATA / "ngram_closed_form.arpa"
    whole = read_arpa(path)
    header = read_header(path)
    assert header.counts == [len(table) for table in whole.grams]
    assert header.vocabulary == whole.vocabulary
    some = [line.split() for line in (DATA / "ngram_closed_form.txt").read_text().splitlines()[:3]]
    part = read_arpa(path, ngrams_of(some, whole.order))
    assert sum(map(len, part.grams)) < sum(map(len, whole.grams))
    mixed = [[*some[0], "unheard"], some[1][::-1]]
    part = read_arpa(path, ngrams_of(mixed, whole.order))
    assert part.perplexity(mixed) == whole.perplexity(mixed)


def test_a_copy_is_unpacked_and_the_same(tmp_path: Path) -> None:
    # The official models of LibriSpeech write the unknown word in upper case.
    whole = read_arpa(DATA / "ngram_closed_form.arpa")
    capitals = (DATA / "ngram_closed_form.arpa").read_text().replace("<unk>", "<UNK>")
    source = tmp_path / "lm.arpa.gz"
    source.write_bytes(gzip.compress(capitals.encode()))
    header = copy_arpa(source, tmp_path / "lm.arpa")
    assert (tmp_path / "lm.arpa").read_text() == capitals
    assert header.vocabulary == whole.vocabulary
    assert read_arpa(source).grams == whole.grams


def test_prepare_lang_reads_a_packed_arpa(tmp_path: Path, repo: Path) -> None:
    lines = (DATA / "ngram_closed_form.txt").read_text().splitlines()
    recording = Recording("r", [], 16000, 16000, 1.0)
    cuts = []
    for number, line in enumerate(lines[:30]):
        supervision = SupervisionSegment(f"u{number}", "r", 0.0, 1.0, text=line)
        cuts.append(MonoCut(f"u{number}", 0.0, 1.0, 0, [supervision], recording=recording))
    write_cuts(cuts, tmp_path / "text.jsonl.gz")
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress((DATA / "ngram_closed_form.arpa").read_bytes()))
    command = [sys.executable, str(repo / "local/prepare_lang.py"), "--arpa", str(packed)]
    command += ["--text", str(tmp_path / "text.jsonl.gz"), "--output", str(tmp_path / "lang")]
    command += ["--dev", str(tmp_path / "text.jsonl.gz")]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "lang/lang.json").read_text())
    model = read_arpa(packed)
    expected = model.perplexity([line.split() for line in lines[:30]]).value
    assert about["dev_perplexity"] == pytest.approx(expected, abs=1e-3)
    assert about["ngrams"] == [len(table) for table in model.grams]


def test_vocabulary_of_words_by_count(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("b a b\na b c\n")
    paths = [tmp_path / "a.txt"]
    found = build_vocabulary(paths)
    assert found.symbols == [*SPECIAL, "b", "a", "c"]
    assert found.rare == 6
    assert found.encode("a never c") == [5, UNKNOWN, 6]
    assert build_vocabulary(paths, min_count=2).symbols == [*SPECIAL, "b", "a"]
    (tmp_path / "words").write_text("c 7\nx 3\na\n")
    listed = build_vocabulary(paths, words=tmp_path / "words", max_words=2)
    assert listed.symbols == [*SPECIAL, "a", "c"]
    letters = build_vocabulary(paths, "letters")
    assert letters.symbols == [*SPECIAL, "|", "b", "a", "c"]
    assert letters.encode_words("ab") == [[6, 5, 4]]
    again = Vocabulary.from_state(letters.state())
    assert again.encode("c x") == letters.encode("c x")
    with pytest.raises(DataError, match="reserved"):
        found.encode("a </s>")


def test_vocabulary_of_sentence_pieces(tmp_path: Path) -> None:
    import sentencepiece

    sentences = [" ".join(WORDS[i : i + 4]) for i in range(6)] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(tmp_path / "bpe"), vocab_size=40,
        model_type="bpe", minloglevel=2,
    )  # fmt: skip
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "bpe.model"))
    found = build_vocabulary([], "pieces", pieces=tmp_path / "bpe.model")
    again = Vocabulary.from_state(found.state())
    for sentence in sentences[:6]:
        assert [again.symbols[i] for i in again.encode(sentence)] == peer.encode(
            sentence, out_type=str
        )
    with pytest.raises(DataError, match="not a model of sentencepiece"):
        (tmp_path / "x").write_bytes(b"nothing")
        build_vocabulary([], "pieces", pieces=tmp_path / "x")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.integers(1, 80),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_an_epoch_has_every_sentence_once(
    lengths: list[int], batch_units: int, world_size: int, skip: int
) -> None:
    sizes = np.array(lengths, dtype=np.int32)
    seen: list[int] = []
    for rank in range(world_size):
        specs = list(TextStream(sizes, batch_units, 1, rank, world_size, epochs=1))
        for spec in specs:
            width = sizes[spec.sentences].max() + 1
            assert len(spec.sentences) == 1 or len(spec.sentences) * width <= batch_units
            seen += spec.sentences.tolist()
        later = list(
            TextStream(sizes, batch_units, 1, rank, world_size, Position(0, skip), epochs=1)
        )
        assert [s.sentences.tolist() for s in later] == [s.sentences.tolist() for s in specs[skip:]]
    assert sorted(seen) == list(range(len(sizes)))
    ordered = np.sort(sizes)
    parts = plan(ordered, batch_units)
    # No batch could have taken the first sentence of the next one.
    for part, following in zip(parts, parts[1:], strict=False):
        assert (part.stop - part.start + 1) * (ordered[following.start] + 1) > batch_units


def test_words_seen_once_are_shown_as_unknown_at_times(words: Text) -> None:
    vocabulary = build_vocabulary([words.train])
    corpus = Corpus([words.train], vocabulary)
    dataset = TextDataset(corpus, 1, vocabulary.rare, 1.0)
    plain = TextDataset(corpus)
    for spec in TextStream(corpus.lengths, 60, 1, epochs=1):
        hidden, shown = dataset[spec], plain[spec]
        rare = shown.targets >= vocabulary.rare
        assert torch.equal(hidden.targets == UNKNOWN, rare)
        assert torch.equal(hidden.tokens == UNKNOWN, shown.tokens >= vocabulary.rare)
        assert shown.words == corpus.words[spec.sentences].sum() + len(spec.sentences)
    assert [s for s in read_sentences(words.train)][-1] == "once"

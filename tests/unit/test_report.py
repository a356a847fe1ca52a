"""Results records, RESULTS.md and the HTML page of a small experiment."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from experiments import COMMAND, HOSTILE, add_scored, add_training, build, write_json

from unispeech.__main__ import main
from unispeech.report import experiment, figures, results
from unispeech.report import html as pages
from unispeech.report.record import Result
from unispeech.score import wer

FIELDS = {
    "recipe", "dataset", "system", "metric", "value", "low", "high", "paper", "conditions",
    "config", "command", "commit", "checkpoint_sha256", "seed", "minutes",
}  # fmt: skip


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    return build(tmp_path / "exp")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `report` folder of an experiment, for tests that only look at it."""
    root = build(tmp_path_factory.mktemp("reported") / "exp")
    assert report(root) == 0
    return root / "report"


def report(exp: Path, *more: str) -> int:
    arguments = ["--exp", str(exp), "--recipe", "librispeech", "--data-name", "Made-up"]
    return main(["report", *arguments, "--command", COMMAND, *more])


class Page(html.parser.HTMLParser):
    """Collects tags and text; fails on tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "link", "hr", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_results_have_the_fields_of_the_schema(reported: Path) -> None:
    rows = json.loads((reported / "results.json").read_text())
    assert len(rows) == 4
    assert all(set(row) == FIELDS for row in rows)
    row = next(
        r for r in rows if r["system"] == "pretrained" and r["conditions"]["decoding"] == "graph"
    )
    assert (row["value"], row["low"], row["high"]) == (10.0, 5.0, 15.0)
    assert row["dataset"] == "Made-up test"
    assert row["paper"] is None
    assert row["minutes"] == 12.5
    assert row["seed"] == 7
    assert row["commit"] == "c" * 40
    assert row["checkpoint_sha256"] == "ab" * 32
    assert row["config"] == (
        "egs/librispeech/conf/tiny/pretrain_it1.yaml + egs/librispeech/conf/tiny/finetune.yaml"
    )
    assert row["conditions"]["LM"] == "3-gram"
    assert row["conditions"]["beam"] == 20.0
    assert row["conditions"]["lm_scale"] == 0.5
    scratch = next(r for r in rows if r["system"] == "scratch")
    assert scratch["minutes"] == 3.0
    assert scratch["conditions"]["LM"] == "none"


def test_published_markdown_is_rendered_from_the_records(exp: Path, tmp_path: Path) -> None:
    target = tmp_path / "egs" / "librispeech"
    assert report(exp, "--publish", str(target)) == 0
    rows = results.read(target / "results.json")
    text = (target / "RESULTS.md").read_text()
    assert text == results.render(rows)
    assert "no paper number: other data" in text
    assert "a relative reduction of 50.0 %; the 95 % intervals do not touch" in text
    assert "| WavLM Base | 4-gram | 5.7 / 10.8 | 4.3 / 9.2 | 3.4 / 7.7 |  | not run |" in text
    assert report(exp, "--publish", str(target)) == 0
    assert results.read(target / "results.json") == rows
    assert (target / "RESULTS.md").read_text() == text


def test_publishing_replaces_a_measurement_and_keeps_the_others(exp: Path, tmp_path: Path) -> None:
    assert report(exp, "--publish", str(tmp_path)) == 0
    old = results.read(tmp_path / "results.json")
    other = old[0].model_copy(update={"command": "another command"})
    newer = old[0].model_copy(update={"value": 1.0})
    merged = results.merge([*old, other], [newer])
    assert len(merged) == len(old) + 1
    assert newer in merged
    assert other in merged
    assert old[0] not in merged


def test_paper_value_stands_beside_ours(
    exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for system in ("pretrained", "scratch"):
        (exp / "infer" / system / "test").rename(exp / "infer" / system / "test-clean")
    (exp / "data" / "test.jsonl.gz").rename(exp / "data" / "test-clean.jsonl.gz")
    (exp / "lang" / "lm.arpa").write_text("\\data\\\nngram 1=5\nngram 4=7\n")
    options = ["--model", "exp/wavlm_base_it1", "--paper-hours", "100", "--publish", str(tmp_path)]
    options += ["--condition", "budget=100h"]
    assert report(exp, *options) == 0
    rows = results.read(tmp_path / "results.json")
    found = {(row.system, row.decoding): row.paper for row in rows}
    assert found["pretrained", "graph"] == 3.4
    assert found["pretrained", "greedy"] == 5.7
    assert found["scratch", "graph"] is None
    out = capsys.readouterr().out
    assert "off by +14.3" in out
    assert "| WavLM Base | none | not run | not run | 20.0 / not run | **ours** |" in out
    assert {row.conditions["budget"] for row in rows} == {"100h"}
    text = (tmp_path / "RESULTS.md").read_text()
    paper_line = "| WavLM Base | 4-gram | 5.7 / 10.8 | 4.3 / 9.2 | 3.4 / 7.7 |  | paper |"
    ours = "| WavLM Base | 4-gram | not run | not run | 10.0 / not run |  | **ours** |"
    assert f"{paper_line}\n{ours}\n" in text
    assert "| WavLM Large | 4-gram | 3.8 / 6.6 | 2.9 / 5.5 | 2.3 / 4.6 |  | not run |" in text


def collected(
    exp: Path, recipe: str, data_name: str, model: str | None, hours: int | None, **more: str
) -> list[Result]:
    """The rows of an experiment, without the page."""
    read = experiment.read(exp)
    about = {"recipe": recipe, "data_name": data_name, "command": COMMAND, "more": more}
    return results.collect(read, paper_model=model, paper_hours=hours, **about)


def test_every_decoding_names_its_language_model(exp: Path, tmp_path: Path) -> None:
    """What is compared with the paper's 4-gram and Transformer lines."""
    write_json(exp / "lang" / "lm.arpa", {})
    (exp / "lang" / "lm.arpa").write_text("\\data\\\nngram 3=7\n")
    infer = exp / "infer" / "pretrained"
    for method, rate, about in (
        ("rescored", 4.0, {"lm": "4-gram + Transformer", "backend": "k2"}),
        ("graph_4gram", 6.0, {"lm": "4-gram", "rescore_arpa": "f" * 64, "backend": "k2"}),
    ):
        add_scored(exp, "pretrained", method, rate)
        write_json(infer / "test" / method / "decode.json", {"method": "graph", **about})
    (infer / "test").rename(infer / "test-other")
    found_here = collected(exp, "librispeech", "Made-up", "WavLM Large", 10)
    results.publish(tmp_path, found_here)
    rows = {row.decoding: row for row in found_here if row.system == "pretrained"}
    found = {name: (row.conditions["LM"], row.paper) for name, row in rows.items()}
    assert found == {
        "greedy": ("none", None), "graph": ("3-gram", None),
        "graph_4gram": ("4-gram lattice rescoring", 5.5), "rescored": ("4-gram + Transformer", 4.6),
    }  # fmt: skip
    assert list(rows) == ["greedy", "graph", "graph_4gram", "rescored"]
    assert [row.conditions.get("backend") for row in rows.values()] == [None, "kaldi", "k2", "k2"]
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| WavLM Large | Transformer |  | not run / 4.0 |  |  | **ours** |" not in text
    assert "| WavLM Large | Transformer | not run | not run / 4.0 | not run |" in text


def test_phones_and_words_of_one_model_are_told_apart(exp: Path, tmp_path: Path) -> None:
    """A model of phones: scored by phones greedily, by words after the graph."""
    for system in ("pretrained", "scratch"):
        folder = exp / "infer" / system / "test" / "greedy"
        rate = {"metric": "PER", "per": 30.0, "low": 29.0, "high": 31.0, "phones": 99}
        write_json(folder / "per.json", rate)
        (folder / "wer.json").unlink()
    found = collected(exp, "librispeech", "Made-up", None, None)
    text = results.render(found)
    assert "Phone error rate and word error rate in percent" in text
    assert "**30.00** [29.00, 31.00] PER |" in text
    assert "**10.00** [5.00, 15.00] WER |" in text
    assert "PER or WER %" in results.console(found)


def test_phone_error_rates_of_several_languages(tmp_path: Path) -> None:
    """Language columns and their average, in the paper's setting and in another one."""
    exp = tmp_path / "exp"
    for code, value in (("es", 5.0), ("fr", 6.5)):
        folder = exp / "infer" / "pretrained" / f"{code}_test" / "greedy"
        rate = {"metric": "PER", "per": value, "low": value - 1, "high": value + 1, "phones": 99}
        write_json(folder / "per.json", {**rate, "utterances": 4})
        write_json(folder / "decode.json", {"method": "greedy", "units": "phones"})
        add_training(exp, f"finetune_{code}", minutes=10.0)
        add_training(exp, f"pretrain_continued_{code}", minutes=5.0)
    add_training(exp, "pretrain", minutes=100.0)
    found = collected(exp, "commonvoice", "Common Voice", "UniSpeech-L+", 1)
    results.publish(tmp_path, found)
    table = "| UniSpeech-L+ | 4.7 | 6.2 | 6.8 | 6.1 | 6.8 | 8.3 | 17.1 | 5.5 | 7.7 | paper |\n"
    table += "| UniSpeech-L+ | 5.0 | 6.5 |" + 6 * " not run |" + " 5.8 of 2 | **ours** |\n"
    assert table in (tmp_path / "RESULTS.md").read_text()
    rows = {row.dataset: row for row in found}
    # Its own fine-tuning and continued pre-training, and the pre-training of all.
    assert {row.minutes for row in rows.values()} == {115.0}
    assert rows["Common Voice es test"].paper == 4.7
    more = {"setting": "many-to-many", "vocabulary": "shared"}
    results.publish(tmp_path, collected(exp, "commonvoice", "Common Voice", None, None, **more))
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| Common Voice | pretrained | shared | 5.0 | 6.5 | 5.8 |" in text
    assert "many-to-one: not run" in text


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--paper-model", "WavLM Base"], 2),
        (["--paper-model", "WavML Base", "--paper-hours", "1"], 2),
        (["--paper-hours", "1"], 2),
        (["--condition", "setting"], 2),
    ],
)
def test_wrong_paper_options(exp: Path, options: list[str], code: int) -> None:
    assert report(exp, *options) == code


@pytest.mark.parametrize(
    ("published", "state"),
    [(None, "no paper number: other data"), (5.5, "reproduced"), (3.4, "off by +1.6")],
)
def test_state(published: float | None, state: str) -> None:
    row = Result(
        recipe="r", dataset="d", system="s", metric="WER", value=5.0, low=4.0, high=6.0,
        paper=published, conditions={}, config="", command="", commit="", checkpoint_sha256="",
        seed=None, minutes=None,
    )  # fmt: skip
    assert row.state == state


def test_page_is_self_contained_and_well_formed(reported: Path) -> None:
    page = Page(reported / "index.html")
    assert page.named("link") == []
    assert [attributes for attributes in page.named("script") if "src" in attributes] == []
    addresses = [a.get(key) for _, a in page.tags for key in ("src", "href", "data", "srcset")]
    assert all(x.startswith(("data:", "#")) for x in addresses if x is not None)
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert len(page.named("audio")) == 3
    # interval plot, 2 speaker plots, 3 utterances, 3 learning curves
    assert len(page.named("img")) == 9
    assert all(image.get("alt") for image in page.named("img"))
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {str(a["href"])[1:] for a in page.named("a")} <= anchors


def test_page_escapes_what_data_and_users_wrote(reported: Path) -> None:
    page = Page(reported / "index.html")
    assert len(page.named("script")) == 1
    assert HOSTILE in page.text
    assert "python -m unispeech pretrain <b>" in page.text


def test_page_shows_every_part(exp: Path) -> None:
    folder = exp / "infer" / "pretrained" / "test" / "graph"
    columns = ["lm_scale", "word_insertion", "errors"]
    points = [[0.5, -1.0, 4321], [0.9, 0.0, 4320]]
    write_json(folder / "tune.json", {"columns": columns, "table": points, "inputs": "f" * 64})
    difference = {"difference": -3.25, "low": -4.5, "high": -1.0, "probability_of_improvement": 0.9}
    write_json(folder / "comparison.json", {"with": "exp/infer/scratch/test/graph", **difference})
    assert report(exp) == 0
    text = Page(exp / "report" / "index.html").text
    for expected in (
        "Made-up test", "0.412", "4,320", "layers: 4", "1.24", "2025-01-02", "backend kaldi",
        "pretrained minus scratch on the same utterances: -3.25 points",
    ):  # fmt: skip
        assert expected in text
    assert "Not here" not in text


def test_missing_parts_are_named(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(exp / "finetune_scratch")
    shutil.rmtree(exp / "infer" / "scratch")
    shutil.rmtree(exp / "data")
    (exp / "commands.tsv").unlink()
    (exp / "finetune" / "env.json").write_text("{broken")
    assert report(exp) == 0
    out = capsys.readouterr().out
    for expected in (
        "no scored output of the scratch system",
        "finetune_scratch: no such training",
        "finetune/env.json: not valid JSON",
        "words of pretrained/test/graph",
        "commands.tsv",
    ):
        assert expected in out
        assert expected in Page(exp / "report" / "index.html").text
    assert "index.html" in out


def test_missing_emissions_leave_the_words(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (exp / "infer" / "pretrained" / "test" / "emissions.npy").unlink()
    assert report(exp) == 0
    page = Page(exp / "report" / "index.html")
    assert HOSTILE in page.text
    assert "emissions" in capsys.readouterr().out


def test_nothing_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path / "nowhere") == 65
    assert "nothing was scored" in capsys.readouterr().err


def test_damaged_records_are_a_data_error(exp: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('[{"recipe": 1}]')
    assert report(exp, "--publish", str(tmp_path)) == 65


def test_reports_are_reproducible(reported: Path) -> None:
    first = (reported / "index.html").read_bytes()
    assert report(reported.parent) == 0
    assert (reported / "index.html").read_bytes() == first


def test_greedy_labels_sit_on_the_best_frame_of_each_run() -> None:
    probs = np.array(
        [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0], [0.3, 0.7, 0.0],
         [0.1, 0.3, 0.6]]
    )  # fmt: skip
    assert figures.greedy_labels(np.log(probs + 1e-9)) == [(2, 1), (4, 1), (5, 2)]
    assert figures.greedy_labels(np.zeros((0, 3))) == []


def test_log_mel_of_a_tone_peaks_at_its_band() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    spectrogram = figures.log_mel(tone)
    assert spectrogram.shape == (80, 100)
    # HTK: 1 kHz is 1000 mel of 2840; centres are 35.06 mel apart, the first at 35.06.
    assert spectrogram[:, 50].argmax() == round(1000 / 35.06) - 1
    assert spectrogram.max() == 0
    assert spectrogram.min() >= -80


def test_choice_of_utterances_is_deterministic() -> None:
    rates = {"a": (0, 3), "b": (0, 9), "c": (1, 4), "d": (2, 2), "e": (5, 5)}
    assert pages.choose(rates) == [("Best", "b"), ("Median", "c"), ("Worst", "e")]
    assert pages.choose(dict(reversed(rates.items()))) == pages.choose(rates)
    assert pages.choose({"a": (1, 2)}) == [("Best", "a")]
    assert pages.choose({}) == []


def test_audio_survives_the_data_uri() -> None:
    samples = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 2.0])
    raw = base64.b64decode(pages.wav_uri(samples).split(",", 1)[1])
    with wave.open(io.BytesIO(raw)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        values = np.frombuffer(file.readframes(9), dtype="<i2")
    np.testing.assert_allclose(values / 32767, np.clip(samples, -1, 1), atol=4e-5)


def test_alignment_counts_agree_with_the_scorer() -> None:
    scored = wer.wer({"u": "A B C D"}, {"u": "A X C D E"}, resamples=0)
    hypothesis = pages.Hypothesis("x", scored.alignments["u"])
    assert (hypothesis.errors, hypothesis.words) == (scored.total.errors, scored.total.words)
    assert [kind for kind, _, _ in hypothesis.marked] == ["ok", "sub", "ok", "ok", "ins"]


def test_config_files_lose_the_path_of_the_clone() -> None:
    training = experiment.Training(
        "finetune", [], {}, {}, "", "x --config /a/egs/l/conf/a.yaml --config=conf/b.yaml"
    )
    assert training.config_files == ["egs/l/conf/a.yaml", "conf/b.yaml"]

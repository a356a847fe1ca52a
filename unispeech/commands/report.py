"""Write the results of an experiment: EXP/report/results.json and one HTML page.

The page EXP/report/index.html needs no other file: results with intervals, learning curves, word
error rate by speaker, a few decoded utterances with audio and frame posteriors, tuning,
configurations, environment and every command that led here. Parts that are missing are named on
the page and on the console. With --publish the rows are merged into a recipe's results.json, and
RESULTS.md beside it is rendered from that. Exits with 65 when nothing at all was scored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unispeech.commands._report_kinds import write_other
from unispeech.data.manifests import load_cuts, read_audio, speaker, target
from unispeech.decode.emissions import EmissionReader
from unispeech.errors import DataError, UnispeechError, UsageError
from unispeech.report import experiment as experiments
from unispeech.report import figures, html, paper, results, tables
from unispeech.score.wer import WordErrors, wer
from unispeech.storage import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("--exp", type=Path, required=True, help="experiment folder")
    parser.add_argument("--recipe", required=True, help="folder name under egs/")
    parser.add_argument("--data-name", required=True, help="corpus, e.g. LibriSpeech")
    parser.add_argument("--command", required=True, help="what gives these numbers again")
    parser.add_argument(
        "--publish", type=Path, metavar="DIR", help="recipe folder whose RESULTS.md to update"
    )
    parser.add_argument(
        "--paper-model", metavar="NAME", help="published model to compare with, e.g. 'WavLM Base'"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="instead: folder of conf/ or released name, e.g. wavlm_base"
    )
    parser.add_argument(
        "--paper-hours", type=int, metavar="H", help="its labelled hours: 1, 10, 100 or 960"
    )
    parser.add_argument(
        "--condition", action="append", default=[], metavar="NAME=TEXT", help="kept with the rows"
    )


def run(args: argparse.Namespace) -> None:
    """Collect, write and print.

    Raises:
        UsageError: --paper-model names no published model, or stands without --paper-hours.
        DataError: nothing was scored.
    """
    if write_other(args):
        return
    model = args.paper_model or (paper.named(args.model) if args.model else None)
    if bool(args.paper_model or args.model) != bool(args.paper_hours):
        raise UsageError("--paper-model and --paper-hours go together")
    paper.check_model(args.recipe, model)
    experiment = experiments.read(args.exp)
    if not experiment.scored:
        expected = "infer/<system>/<set>/<method>/wer.json or per.json"
        remedy = "run the infer and score stages first"
        raise DataError("nothing was scored", where=args.exp, expected=expected, remedy=remedy)
    rows = results.collect(
        experiment, recipe=args.recipe, data_name=args.data_name, command=args.command,
        paper_model=model,
        paper_hours=args.paper_hours,
        more=results.conditions(args.condition),
    )  # fmt: skip
    folder = args.exp / "report"
    results.write(folder / "results.json", rows)
    words = _words(experiment)
    utterances = _utterances(experiment, words)
    page = html.page(experiment, rows, utterances, _speakers(words))
    write_text(folder / "index.html", page)
    if args.publish:
        results.publish(args.publish, rows)
    print(results.console(rows))
    if model:
        print(tables.paper_tables(rows, args.recipe, model))
    for item in experiment.missing:
        print(f"not here: {item}")
    if args.publish:
        print(f"published: {args.publish / 'RESULTS.md'}")
    print(f"page: {folder / 'index.html'}")


def _words(experiment: experiments.Experiment) -> dict[Path, WordErrors]:
    """Alignments by folder; whatever cannot be read is noted as missing and left out."""
    found = {}
    for one in experiment.scored:
        try:
            cuts = load_cuts(experiment.root / "data" / f"{one.set}.jsonl.gz")
            lines = (one.folder / "text").read_text(encoding="utf-8").splitlines()
            texts = {name: text for name, _, text in (line.partition(" ") for line in lines)}
            references = {cut.id: target(cut, one.units) for cut in cuts}
            names = {cut.id: speaker(cut) for cut in cuts}
            found[one.folder] = wer(references, texts, names, resamples=0, allow_missing=True)
        except (UnispeechError, OSError) as error:
            where = f"{one.system}/{one.set}/{one.method}"
            experiment.missing.append(f"words of {where}: {error}")
    return found


def _speakers(words: dict[Path, WordErrors]) -> dict[Path, html.SpeakerCounts]:
    return {
        folder: {name or "unknown": (c.errors, c.words) for name, c in found.speakers.items()}
        for folder, found in words.items()
    }


def _utterances(
    experiment: experiments.Experiment, words: dict[Path, WordErrors]
) -> list[html.Utterance]:
    scored = [one for one in experiment.scored if one.folder in words]
    if not scored:
        return []
    main = min(scored, key=lambda one: (not one.set.startswith("test"), one.method != "graph"))
    counts = words[main.folder].utterances
    cuts = load_cuts(experiment.root / "data" / f"{main.set}.jsonl.gz")
    chosen = []
    for title, name in html.choose({k: (c.errors, c.words) for k, c in counts.items() if c.words}):
        cut = cuts[name]
        hypotheses = [
            html.Hypothesis(f"{one.system}, {one.method}", words[one.folder].alignments[name])
            for one in scored
            if one.set == main.set
        ]
        utterance = html.Utterance(title, name, speaker(cut), cut.duration, hypotheses)
        try:
            utterance = _with_signal(utterance, read_audio(cut), main.folder.parent)
        except UnispeechError as error:
            experiment.missing.append(f"{name}: {error}")
        chosen.append(utterance)
    return chosen


def _with_signal(
    utterance: html.Utterance, samples: figures.FloatArray, folder: Path
) -> html.Utterance:
    # Decoding has verified the emissions; hashing gigabytes again would be slow.
    emissions = EmissionReader(folder, verify=False)
    log_probs = emissions[utterance.utterance_id]
    picture = figures.posteriors(samples, log_probs, emissions.tokens, emissions.frame_shift)
    return html.with_signal(utterance, samples, picture)

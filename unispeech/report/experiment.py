"""What an experiment folder holds, read tolerantly: a part that is missing is named, not fatal."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

from unispeech.data.config import Units

SYSTEM_ORDER = ("pretrained", "scratch")
METHOD_ORDER = ("greedy", "graph", "graph_4gram", "rescored")

_FINETUNE_FOLDERS = {"pretrained": "finetune", "scratch": "finetune_scratch"}


@dataclasses.dataclass(frozen=True)
class Scored:
    """One system decoded by one method on one set.

    `wer` is what `score` wrote, `wer.json` or, of phones, `per.json`; `decode` and `comparison` are
    the JSON files of those names, empty where not there.
    """

    system: str
    set: str
    method: str
    folder: Path
    wer: dict[str, Any]
    decode: dict[str, Any]
    comparison: dict[str, Any]

    @property
    def metric(self) -> str:
        """`WER`, or `PER` of phones."""
        return str(self.wer.get("metric", "WER"))

    @property
    def rate(self) -> float:
        """The error rate in per cent."""
        return float(self.wer[self.metric.lower()])

    @property
    def units(self) -> Units:
        """What the system recognises."""
        return "phones" if self.metric == "PER" else "letters"

    @property
    def title(self) -> str:
        """The set as results name it: `es test` of the language `es` among several."""
        return self.set.replace("_", " ")

    @property
    def counted(self) -> str:
        """What the rate is a share of: `words` or `phones`."""
        return "phones" if self.metric == "PER" else "words"


@dataclasses.dataclass(frozen=True)
class Training:
    """One training folder; `done` is empty while training has not finished."""

    name: str
    metrics: list[dict[str, Any]]
    done: dict[str, Any]
    env: dict[str, Any]
    config: str
    command: str

    @property
    def config_files(self) -> list[str]:
        """The `--config` files of the command, from the repository root where they are in it."""
        try:
            words = shlex.split(self.command, comments=True)
        except ValueError:
            words = self.command.split()
        files = [b for a, b in itertools.pairwise(words) if a == "--config"]
        files += [word.split("=", 1)[1] for word in words if word.startswith("--config=")]
        # An absolute path would tell where one machine keeps its clone.
        return [re.sub(r"^.*?(?=\begs/)", "", file) for file in files]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment folder; `missing` lists what a full one would have had, in words.

    `lm` names the language model of the graph by the order that `lang/lm.arpa` declares.
    """

    root: Path
    scored: list[Scored]
    trainings: dict[str, Training]
    commands: list[dict[str, str]]
    tuning: dict[str, list[dict[str, Any]]]
    labels: dict[str, dict[str, Any]]
    lm: str
    missing: list[str]

    def finetuning(self, system: str, set_name: str = "") -> Training | None:
        """The training that gave the system its CTC model, of several the one for the set."""
        name = _FINETUNE_FOLDERS.get(system, f"finetune_{system}")
        return self.trainings.get(name + _language(set_name), self.trainings.get(name))

    def lineage(self, system: str, set_name: str = "") -> list[Training]:
        """Every training that led to the system, in order; those for other languages did not."""
        others = (_language(one.set) for one in self.scored)
        apart = tuple({other for other in others if other} - {_language(set_name)})
        first = [
            training
            for training in self.trainings.values()
            if training.name.startswith("pretrain") and not training.name.endswith(apart)
        ]
        last = self.finetuning(system, set_name)
        return [*(first if system != "scratch" else []), *([last] if last else [])]


def _language(set_name: str) -> str:
    """What ends the names of the trainings for the language of a set `es_test`: `_es`."""
    found = re.match(r"([a-z]{2})_", set_name)
    return f"_{found[1]}" if found else ""


def read(root: str | Path) -> Experiment:
    """Read everything that a report shows from the experiment folder `root`."""
    folder = Path(root)
    missing: list[str] = []
    trainings = _read_trainings(folder, missing)
    scored = _read_scored(folder, missing)
    for system in SYSTEM_ORDER:
        if not any(one.system == system for one in scored):
            missing.append(f"no scored output of the {system} system")
    commands = _read_commands(folder / "commands.tsv")
    if not commands:
        missing.append("commands.tsv: the commands that led here are not recorded")
    return Experiment(
        root=folder,
        scored=scored,
        trainings=trainings,
        commands=commands,
        tuning=_read_tuning(folder, missing),
        labels=_read_labels(folder, missing),
        lm=_read_lm(folder / "lang" / "lm.arpa"),
        missing=missing,
    )


def _read_json(path: Path, missing: list[str], *, wanted: bool = True) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        if wanted:
            missing.append(f"{path.parent.name}/{path.name}: not there")
        return {}
    except ValueError:
        missing.append(f"{path.parent.name}/{path.name}: not valid JSON")
        return {}
    return value if isinstance(value, dict) else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_trainings(folder: Path, missing: list[str]) -> dict[str, Training]:
    finetuned = sorted(folder.glob("finetune*"))
    names = sorted(folder.glob("pretrain*"))
    if not finetuned or (folder / "finetune").is_dir():
        names += [folder / "finetune", folder / "finetune_scratch"]
    names += [path for path in finetuned if path not in names]
    trainings = {}
    for path in names:
        if not path.is_dir():
            missing.append(f"{path.name}: no such training")
            continue
        trainings[path.name] = Training(
            name=path.name,
            metrics=_read_metrics(path / "metrics.jsonl", missing),
            done=_read_json(path / "done.json", missing),
            env=_read_json(path / "env.json", missing),
            config=_read_text(path / "config.yaml"),
            command=_read_text(path / "command.txt").strip(),
        )
    if not any(name.startswith("pretrain") for name in trainings):
        missing.append("pretrain_it*: no such training")
    return trainings


def _read_metrics(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    rows = []
    for line in _read_text(path).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            # The last line may be half written while training runs.
            continue
        if isinstance(row, dict) and "step" in row and "phase" in row:
            rows.append(row)
    if not rows:
        missing.append(f"{path.parent.name}/{path.name}: no learning curves")
    return rows


def _read_scored(folder: Path, missing: list[str]) -> list[Scored]:
    scored = []
    for path in sorted((folder / "infer").glob("*/*/*/decode.json")):
        system, set_name, method = path.parent.relative_to(folder / "infer").parts
        if not list(path.parent.glob("[wp]er.json")):
            missing.append(f"{system}/{set_name}/{method}: decoded, not scored")
    for path in sorted((folder / "infer").glob("*/*/*/[wp]er.json")):
        system, set_name, method = path.parent.relative_to(folder / "infer").parts
        wer = _read_json(path, missing)
        if not all(isinstance(wer.get(key), (int, float)) for key in (path.stem, "low", "high")):
            missing.append(f"{system}/{set_name}/{method}/{path.name}: no rate or no interval")
            continue
        decode = _read_json(path.parent / "decode.json", missing)
        comparison = _read_json(path.parent / "comparison.json", missing, wanted=False)
        scored.append(Scored(system, set_name, method, path.parent, wer, decode, comparison))
    return sorted(scored, key=lambda one: (one.set, rank(one.system, one.method)))


def rank(system: str, method: str) -> tuple[int, str, int, str]:
    """Sort key: the known systems and methods first, in their usual order, then by name."""

    def position(name: str, order: tuple[str, ...]) -> int:
        return order.index(name) if name in order else len(order)

    return position(method, METHOD_ORDER), method, position(system, SYSTEM_ORDER), system


def _read_commands(path: Path) -> list[dict[str, str]]:
    names = ("time", "stage", "command", "status", "seconds")
    lines = _read_text(path).splitlines()
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        dict(zip(names, row, strict=True))
        for row in rows
        if len(row) == len(names) and row[0] != "time"
    ]


def _read_tuning(folder: Path, missing: list[str]) -> dict[str, list[dict[str, Any]]]:
    tables = {}
    for path in sorted((folder / "infer").glob("*/*/*/tune.json")):
        found = _read_json(path, missing)
        columns, points = found.get("columns"), found.get("table")
        if isinstance(columns, list) and isinstance(points, list) and points:
            rows = [dict(zip(columns, point, strict=False)) for point in points]
            tables[str(path.parent.relative_to(folder / "infer"))] = rows
    return tables


def _read_labels(folder: Path, missing: list[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((folder / "data" / "labels").glob("*/labels.json")):
        quality = _read_json(path, missing).get("quality")
        if isinstance(quality, dict):
            found[path.parent.name] = quality
    return found


def _read_lm(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = "".join(itertools.islice(file, 30))
    except OSError:
        return "n-gram"
    orders = [int(order) for order in re.findall(r"^ngram (\d+)=", head, flags=re.MULTILINE)]
    return f"{max(orders)}-gram" if orders else "n-gram"

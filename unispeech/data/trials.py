"""Trial lists: which pairs of utterances are compared, and whether one person speaks in both.

`trials.tsv` has a line "label<TAB>enrolment utterance<TAB>test utterance" for each trial, label 1
for the same speaker and 0 for two; `trials.json` beside it has its source, counts and checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unispeech.errors import DataError, nearest
from unispeech.storage import atomic_path, sha256, write_json

DESCRIPTION = "trials.json"
SUFFIXES = (".wav", ".m4a", ".flac")
REMEDY = "run the stage that prepares the manifests again"


class Trials(NamedTuple):
    """Pairs of utterances, as numbers of a list of the distinct ones."""

    labels: npt.NDArray[np.bool_]
    """`(N,)`: the same speaker."""
    enrollment: npt.NDArray[np.int64]
    """`(N,)` numbers of `ids`."""
    test: npt.NDArray[np.int64]
    """`(N,)` numbers of `ids`."""
    ids: list[str]
    """The distinct utterances, in the order of their first trial."""


class TrialList(NamedTuple):
    """What is known of a published list."""

    file: str
    trials: int
    md5: str
    condition: str
    """How results call it."""


# Counts: of O counted on the lists, of E and H recalled. Checksums: those that PaddleSpeech's
# downloads are compared with, from the pages of the authors.
OFFICIAL = {
    "vox1-o": TrialList(
        "veri_test2.txt", 37_611, "b73110731c9223c1461fe49cb48dddfc", "Vox1-O (cleaned)"
    ),
    "vox1-o-original": TrialList(
        "veri_test.txt", 37_720, "29fc7cc1c5d59f0816dc15d6e8be60f7", "Vox1-O (original)"
    ),
    "vox1-e": TrialList(
        "list_test_all2.txt", 579_818, "a53e059deb562ffcfc092bf5d90d9f3a", "Vox1-E (cleaned)"
    ),
    "vox1-e-original": TrialList(
        "list_test_all.txt", 581_480, "b9ecf7aa49d4b656aa927a8092844e4a", "Vox1-E (original)"
    ),
    "vox1-h": TrialList(
        "list_test_hard2.txt", 550_894, "857790e09d579a68eb2e339a090343c8", "Vox1-H (cleaned)"
    ),
    "vox1-h-original": TrialList(
        "list_test_hard.txt", 552_536, "21c341b6b2168eea2634df0fb4b8fff1", "Vox1-H (original)"
    ),
}


def read_trials(path: str | Path) -> Trials:
    """The trials of a `trials.tsv`, or of the folder that holds one.

    Raises:
        DataError: the file is missing, empty or not as it was written; a line has another number
            of columns or another label; an utterance is compared with itself; or a pair is there
            with both labels.
    """
    path = Path(path)
    path = path / "trials.tsv" if path.is_dir() else path
    description = path.with_name(DESCRIPTION)
    trials = parse_trials(path, "\t")
    if description.is_file():
        expected = json.loads(description.read_text(encoding="utf-8"))
        if expected.get("sha256") != sha256(path):
            raise DataError(
                "not the list that was written", where=path,
                expected=f"sha256 {expected.get('sha256')}", remedy=REMEDY,
            )  # fmt: skip
    return trials


def parse_trials(path: str | Path, separator: str | None = None) -> Trials:
    """The trials of a list in the columns label, enrolment, test.

    Args:
        path: the list.
        separator: of the columns, None for blanks as in the published lists.

    Raises:
        DataError: as in `read_trials`.
    """
    path = Path(path)
    numbers: dict[str, int] = {}
    labels: list[bool] = []
    pairs: list[int] = []
    for place, (label, one, other) in _rows(path, separator):
        if label not in ("0", "1"):
            raise DataError(
                "wrong label",
                where=place,
                expected="0 or 1",
                found=label,
                remedy="correct the line",
            )
        if one == other:
            raise DataError(
                "the same utterance on both sides",
                where=place,
                found=one,
                remedy="remove the trial",
            )
        labels.append(label == "1")
        pairs.append(numbers.setdefault(one, len(numbers)))
        pairs.append(numbers.setdefault(other, len(numbers)))
    if not labels:
        raise DataError("the list has no trials", where=path, remedy="restore the list")
    sides = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    trials = Trials(
        np.array(labels, dtype=bool), sides[:, 0].copy(), sides[:, 1].copy(), list(numbers)
    )
    _check_labels(trials, path)
    return trials


def write_trials(trials: Trials, folder: str | Path, source: str, condition: str) -> None:
    """Write `trials.tsv` and `trials.json` into a folder, atomically.

    Args:
        trials: what to write.
        folder: of the list.
        source: file that they come from, or how they were drawn.
        condition: how results call the list.
    """
    path = Path(folder) / "trials.tsv"
    names = trials.ids
    rows = zip(trials.labels, trials.enrollment, trials.test, strict=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{int(label)}\t{names[e]}\t{names[t]}\n" for label, e, t in rows)
    targets = int(trials.labels.sum())
    facts = {
        "source": source,
        "condition": condition,
        "trials": len(trials.labels),
        "targets": targets,
        "utterances": len(names),
        "sha256": sha256(path),
    }
    write_json(Path(folder) / DESCRIPTION, facts)


def check_official(name: str, path: Path) -> None:
    """Raise a DataError unless a file is the published list of that name."""
    known = OFFICIAL[name]
    data = path.read_bytes()
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    count = len(data.splitlines())
    if count != known.trials:
        raise DataError(
            f"not the published list {known.condition}",
            where=path,
            expected=f"{known.trials} trials",
            found=count,
            remedy=_other_list(count) or f"download {known.file} again",
        )
    if digest != known.md5:
        raise DataError(
            f"not the published list {known.condition}",
            where=path,
            expected=f"md5 {known.md5}",
            found=digest,
            remedy=f"download {known.file} again, or name the list yourself: NAME={path}",
        )


def resolve(trials: Trials, known: Collection[str], where: object) -> Trials:
    """The same trials with utterances named without their suffix, all of which are known.

    Args:
        trials: with ids or paths below the corpus, such as `id10270/x6uYqmx31kE/00001.wav`.
        known: ids of the utterances that are there.
        where: the list, for the message.

    Raises:
        DataError: an utterance is not known.
    """
    ids = [without_suffix(name) for name in trials.ids]
    missing = [name for name in ids if name not in known]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(ids)} utterances of the trials are not there",
            where=where,
            found=", ".join(missing[:3]) + nearest(missing[0], list(known)[:2000]),
            remedy="restore the audio, or give the list of this corpus",
        )
    return trials._replace(ids=ids)


def without_suffix(name: str) -> str:
    """The id of an utterance from its path below the corpus."""
    return next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)


def draw_trials(
    speakers: Sequence[str],
    targets: int,
    seed: int,
    groups: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (("", ""),),
    sessions: Sequence[str] = (),
) -> list[tuple[bool, int, int]]:
    """Trials among utterances, half of one speaker and half of two, no pair twice.

    Args:
        speakers: of each utterance.
        targets: trials of one speaker that are wanted, over all `pairs`; fewer where there are
            no more pairs.
        seed: of the draws.
        groups: of each utterance, such as short and long; none is one group "".
        pairs: groups of the two sides, each of which gets its share of the trials.
        sessions: of each utterance; given, the two sides of one speaker are of two sessions.

    Returns:
        Label and numbers of the utterances of each trial.
    """
    rng = np.random.default_rng(seed)
    kinds = groups or [""] * len(speakers)
    chosen: dict[tuple[int, int], bool] = {}
    for one, other in pairs:
        share = targets // len(pairs)
        sides = [[i for i, kind in enumerate(kinds) if kind == side] for side in (one, other)]
        people: dict[str, list[int]] = {}
        for number in sides[1]:
            people.setdefault(speakers[number], []).append(number)
        for is_target in (True, False):
            found = _draw(rng, sides, people, speakers, sessions, is_target, share, chosen)
            chosen.update(found)
            # As many of two speakers as there are of one.
            share = len(found)
    return [(label, one, other) for (one, other), label in sorted(chosen.items())]


def _draw(
    rng: np.random.Generator,
    sides: list[list[int]],
    people: dict[str, list[int]],
    speakers: Sequence[str],
    sessions: Sequence[str],
    is_target: bool,
    wanted: int,
    taken: Collection[tuple[int, int]],
) -> dict[tuple[int, int], bool]:
    found: dict[tuple[int, int], bool] = {}
    # A draw that gives nothing new is repeated, but not for ever: there may be no more pairs.
    for _ in range(20 * wanted):
        if len(found) == wanted or not sides[0] or not sides[1]:
            break
        one = sides[0][int(rng.integers(len(sides[0])))]
        partners = people.get(speakers[one], []) if is_target else sides[1]
        if not partners:
            continue
        other = partners[int(rng.integers(len(partners)))]
        is_same = speakers[one] == speakers[other]
        same_session = bool(sessions) and is_target and sessions[one] == sessions[other]
        pair = (min(one, other), max(one, other))
        if one != other and is_same == is_target and not same_session and pair not in taken:
            found[pair] = is_target
    return found


def numbered(rows: Iterable[tuple[bool, str, str]]) -> Trials:
    """Trials from labels and names."""
    numbers: dict[str, int] = {}
    listed = [
        (label, numbers.setdefault(one, len(numbers)), numbers.setdefault(other, len(numbers)))
        for label, one, other in rows
    ]
    labels, enrollment, test = zip(*listed, strict=True) if listed else ((), (), ())
    return Trials(
        np.array(labels, dtype=bool),
        np.array(enrollment, dtype=np.int64),
        np.array(test, dtype=np.int64),
        list(numbers),
    )


def _rows(path: Path, separator: str | None) -> Iterator[tuple[str, list[str]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                fields = line.rstrip("\r\n").split(separator)
                if len(fields) != 3 or not all(fields):
                    raise DataError(
                        "wrong number of columns",
                        where=f"{path}:{number}",
                        expected="3: label, enrolment, test",
                        found=len(fields),
                        remedy="correct the line",
                    )
                yield f"{path}:{number}", fields
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("cannot read the trials", where=path, found=error, remedy=REMEDY) from None


def _check_labels(trials: Trials, path: Path) -> None:
    low, high = (f(trials.enrollment, trials.test) for f in (np.minimum, np.maximum))
    keys, places = np.unique(low * len(trials.ids) + high, return_inverse=True)
    targets = np.bincount(places, weights=trials.labels, minlength=len(keys))
    mixed = np.flatnonzero((targets > 0) & (targets < np.bincount(places, minlength=len(keys))))
    if len(mixed):
        one, other = divmod(int(keys[mixed[0]]), len(trials.ids))
        raise DataError(
            "a pair is there with both labels",
            where=path,
            found=f"{trials.ids[one]} {trials.ids[other]}",
            remedy="remove one of the trials",
        )


def _other_list(count: int) -> str | None:
    names = [name for name, known in OFFICIAL.items() if known.trials == count]
    return f"this looks like {names[0]}" if names else None

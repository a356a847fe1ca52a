"""Word n-gram models: interpolated modified Kneser-Ney in Python, ARPA files, perplexity.

`estimate` gives the probabilities of KenLM's `lmplz --discount_fallback`; for a corpus of many
million words the program itself is the better choice (`run_lmplz`).

Source: Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling",
equations 25 and 26; Heafield et al. 2013, "Scalable modified Kneser-Ney language model
estimation".
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unispeech.decode.arpa_reader import BOS, EOS, UNK, Words, ngrams
from unispeech.errors import DataError, DependencyError
from unispeech.storage import atomic_path

Discounts = tuple[float, float, float, float]

# What lmplz falls back to where the closed form has no solution.
FALLBACK: Discounts = (0.0, 0.5, 1.0, 1.5)
_LOG10_NEVER = -99.0


@dataclass(frozen=True)
class Perplexity:
    """Perplexity over known words and sentence ends, and what was left out of it."""

    value: float
    words: int
    oov: int
    sentences: int


class NgramModel:
    """A back-off model: for each order, `{words: (log10 probability, log10 back-off)}`."""

    def __init__(self, grams: Sequence[Mapping[Words, tuple[float, float]]]) -> None:
        self.grams = list(grams)

    @property
    def order(self) -> int:
        """The longest n-gram, in words."""
        return len(self.grams)

    @property
    def vocabulary(self) -> list[str]:
        """The words, without `<s>`, `</s>` and `<unk>`."""
        return [word for (word,) in self.grams[0] if word not in (BOS, EOS, UNK)]

    def log10(self, word: str, history: Sequence[str] = ()) -> float:
        """log10 P(word | history); unknown words count as `<unk>`."""
        if (word,) not in self.grams[0]:
            word = UNK
        context = tuple(history[max(0, len(history) - self.order + 1) :])
        total = 0.0
        while True:
            entry = self.grams[len(context)].get((*context, word))
            if entry is not None:
                return total + entry[0]
            if not context:
                return total + _LOG10_NEVER
            total += self.grams[len(context) - 1].get(context, (0.0, 0.0))[1]
            context = context[1:]

    def sentence_log10(self, words: Sequence[str]) -> float:
        """log10 probability of a sentence and its end."""
        history = [BOS, *words]
        return math.fsum(
            self.log10(word, history[: place + 1]) for place, word in enumerate([*words, EOS])
        )

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> Perplexity:
        """Perplexity of sentences; unknown words are counted but not scored."""
        total, scored, oov, count = 0.0, 0, 0, 0
        for words in sentences:
            count += 1
            history = [BOS]
            for word in [*words, EOS]:
                if (word,) in self.grams[0]:
                    total += self.log10(word, history)
                    scored += 1
                else:
                    oov += 1
                history.append(word)
        value = 10 ** (-total / scored) if scored else math.nan
        return Perplexity(value, scored + oov - count, oov, count)


def estimate(
    sentences: Iterable[Sequence[str]], order: int = 3, extra_words: Iterable[str] = ()
) -> NgramModel:
    """Interpolated modified Kneser-Ney with the discounts of every order from its own counts.

    Args:
        sentences: word sequences without `<s>` and `</s>`; empty ones are left out.
        order: the longest n-gram, at least 1.
        extra_words: words that the text may lack; each gets the probability of an unseen word.

    Raises:
        DataError: there is no text, or it holds a reserved word.
    """
    counts, ids = _count(sentences, order)
    extra = sorted(set(extra_words) - set(ids))
    adjusted = _adjust(counts)
    # lmplz takes the raw counts of the n-grams that it holds when its input ends.
    late = _suffixes(max(counts[-1], key=lambda gram: [ids[word] for word in reversed(gram)]))
    discounts = []
    for raw, table in zip(counts, adjusted, strict=True):
        keep = {gram: raw[gram] for gram in late if len(gram) < order and gram in table}
        seen = {g: c for g, c in {**table, **keep}.items() if not _is_padding(g)}
        discounts.append(_discounts(Counter(seen.values())))
    uniform = 1.0 / (len({w for (w,) in adjusted[0]} - {BOS}) + 1 + len(extra))
    return _interpolate(adjusted, discounts, uniform, extra)


def run_lmplz(sentences: Iterable[Sequence[str]], order: int, path: str | Path) -> None:
    """Let KenLM's `lmplz` estimate the model and write it as ARPA to `path`.

    Raises:
        DependencyError: `lmplz` is not on PATH or fails.
    """
    program = shutil.which("lmplz")
    if program is None:
        raise DependencyError(
            "lmplz is not on PATH", remedy="build KenLM, or use the estimator 'python'"
        )
    with (
        tempfile.TemporaryDirectory() as scratch,
        atomic_path(path) as temporary,
        temporary.open("wb") as output,
        (Path(scratch) / "stderr").open("w+b") as log,
    ):
        text = Path(scratch) / "text"
        with text.open("w", encoding="utf-8") as file:
            file.writelines(" ".join(words) + "\n" for words in sentences if words)
        command = [program, "-o", str(order), "-S", "25%", "-T", scratch, "--discount_fallback"]
        with text.open("rb") as file:
            done = subprocess.run(command, stdin=file, stdout=output, stderr=log, check=False)
        if done.returncode:
            log.seek(0)
            reason = log.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            raise DependencyError("lmplz failed", where=program, found=" ".join(reason))


def write_arpa(model: NgramModel, path: str | Path) -> None:
    """Write a model in the ARPA format, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        sizes = [f"ngram {n}={len(table)}\n" for n, table in enumerate(model.grams, start=1)]
        file.writelines(["\\data\\\n", *sizes])
        for n, table in enumerate(model.grams, start=1):
            file.write(f"\n\\{n}-grams:\n")
            for words, (log10, backoff) in table.items():
                tail = "" if n == model.order else f"\t{backoff:.7g}"
                file.write(f"{log10:.7g}\t{' '.join(words)}{tail}\n")
        file.write("\n\\end\\\n")


def read_arpa(path: str | Path, wanted: Collection[Words] | None = None) -> NgramModel:
    """Read an ARPA file, plain or gzip.

    Args:
        path: the file.
        wanted: n-grams to keep; None keeps all. With those that `arpa_reader.ngrams_of` gives of
            some sentences the model scores these as the whole one would.

    Raises:
        DataError: the file is missing, not ARPA, or ends early.
    """
    grams: list[dict[Words, tuple[float, float]]] = []
    for entry in ngrams(path):
        if entry.order > len(grams):
            grams.append({})
        if wanted is None or entry.words in wanted:
            grams[-1][entry.words] = (entry.log10, entry.backoff)
    return NgramModel(grams)


def _count(
    sentences: Iterable[Sequence[str]], order: int
) -> tuple[list[Counter[Words]], dict[str, int]]:
    """n-gram counts for each order, and the words numbered as they first appear."""
    if order < 1:
        raise ValueError(f"order {order}")
    counts: list[Counter[Words]] = [Counter() for _ in range(order)]
    ids = {UNK: 0, BOS: 1, EOS: 2}
    for words in sentences:
        reserved = {BOS, EOS, UNK}.intersection(words)
        if reserved:
            raise DataError(f"the text holds the reserved word {sorted(reserved)[0]}")
        if not words:
            continue
        for word in words:
            ids.setdefault(word, len(ids))
        padded = (*[BOS] * (order - 1), *words, EOS)
        for end in range(order - 1, len(padded)):
            for n in range(1, order + 1):
                counts[n - 1][padded[end - n + 1 : end + 1]] += 1
    if len(ids) == 3:
        raise DataError("no text to estimate a language model from")
    return counts, ids


def _is_padding(gram: Words) -> bool:
    return len(gram) > 1 and gram[1] == BOS


def _suffixes(gram: Words) -> list[Words]:
    return [gram[start:] for start in range(len(gram)) if BOS not in gram[start + 1 :]]


def _adjust(counts: Sequence[Counter[Words]]) -> list[dict[Words, int]]:
    """Below the highest order, count the different words before an n-gram instead of its uses."""
    tables: list[dict[Words, int]] = []
    for table, longer in zip(counts[:-1], counts[1:], strict=True):
        before = Counter(gram[1:] for gram in longer)
        tables.append(
            {
                gram: count if gram[0] == BOS else before[gram]
                for gram, count in table.items()
                if not _is_padding(gram)
            }
        )
    tables.append({gram: count for gram, count in counts[-1].items() if not _is_padding(gram)})
    return tables


def _discounts(of_count: Counter[int]) -> Discounts:
    """D1, D2, D3+ of Chen & Goodman's equation 26, behind a zero for count 0."""
    n = [of_count[k] for k in range(5)]
    if not (n[1] and n[2] and n[3]):
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    values = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    if any(not 0 <= value <= k for k, value in enumerate(values, start=1)):
        return FALLBACK
    return (0.0, values[0], values[1], values[2])


def _interpolate(
    tables: Sequence[Mapping[Words, int]],
    discounts: Sequence[Discounts],
    uniform: float,
    extra: Sequence[str],
) -> NgramModel:
    lower: dict[Words, float] = {(): uniform}
    probabilities: list[dict[Words, float]] = []
    left_over: list[dict[Words, float]] = []
    for n, (table, discount) in enumerate(zip(tables, discounts, strict=True), start=1):
        total: dict[Words, int] = defaultdict(int)
        removed: dict[Words, float] = defaultdict(float)
        for gram, count in table.items():
            total[gram[:-1]] += count
            removed[gram[:-1]] += discount[min(count, 3)]
        left = {history: removed[history] / total[history] for history in total}
        here = {
            gram: (count - discount[min(count, 3)]) / total[gram[:-1]]
            + left[gram[:-1]] * lower[gram[1:]]
            for gram, count in table.items()
        }
        if n == 1:
            here |= {(word,): left[()] * uniform for word in (UNK, *extra)}
            here[(BOS,)] = 1.0
        probabilities.append(here)
        left_over.append(left)
        lower = here
    grams = []
    for n, here in enumerate(probabilities):
        left = left_over[n + 1] if n + 1 < len(left_over) else {}
        grams.append({g: (_log10(p), _log10(left.get(g, 1.0))) for g, p in here.items()})
    return NgramModel(grams)


def _log10(share: float) -> float:
    # A discount of zero leaves nothing to back off with, which ARPA files write as -99.
    return min(0.0, math.log10(share)) if share > 0 else _LOG10_NEVER

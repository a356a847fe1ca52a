"""Small language folders and emissions, and the best score of every sentence in closed form."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from unispeech.decode.ngram import NgramModel, estimate, write_arpa

TOKENS = ["<blk>", "|", "A", "B"]
WORDS = ["A", "AB", "BA", "BAB"]
SENTENCES = ["A AB", "AB BA A", "A A BA", "BA", "BAB A AB"]

Sentence = tuple[str, ...]


def write_lang(folder: Path, order: int = 2, words: list[str] = WORDS) -> Path:
    """A language folder whose words are spelled by their letters and a boundary."""
    folder.mkdir()
    (folder / "lexicon.txt").write_text("".join(f"{w} {' '.join(w)} |\n" for w in words))
    symbols = ["<eps>", *words, "#0", "<s>", "</s>"]
    for file, names in (("tokens", TOKENS), ("words", symbols)):
        table = "".join(f"{name} {place}\n" for place, name in enumerate(names))
        (folder / f"{file}.txt").write_text(table)
    write_arpa(model(order), folder / "lm.arpa")
    return folder


def model(order: int, sentences: list[str] = SENTENCES) -> NgramModel:
    """A small n-gram model."""
    return estimate([sentence.split() for sentence in sentences], order)


def random_log_probs(seed: int, frames: int) -> np.ndarray:
    """Log-probabilities float32 (frames, 4) without a pattern."""
    generator = np.random.default_rng(seed)
    return np.log(generator.dirichlet(np.full(4, 0.7), frames)).astype(np.float32)


def best_alignment(log_probs: np.ndarray, labels: list[int]) -> float:
    """Log score of the best CTC path that gives these labels (Graves et al. 2006, section 4.1)."""
    states = [0, *itertools.chain(*((label, 0) for label in labels))]
    first, *others = log_probs.astype(np.float64)
    score = np.full(len(states), -np.inf)
    score[:2] = first[states[:2]]
    for frame in others:
        before, score = score, np.full(len(states), -np.inf)
        for place, label in enumerate(states):
            ways = [before[place], before[place - 1] if place else -np.inf]
            if place > 1 and label and label != states[place - 2]:
                ways.append(before[place - 2])
            score[place] = max(ways) + frame[label]
    return float(max(score[-2:]))


def every_sentence(log_probs: np.ndarray, longest: int = 3) -> dict[Sentence, float]:
    """Acoustic score of all sentences up to a length, with one or two boundaries anywhere."""
    found: dict[Sentence, float] = {}
    for count in range(longest + 1):
        for words in itertools.product(WORDS, repeat=count):
            best = -math.inf
            # How many boundaries there are before, between and after the words.
            inner = [(1, 2)] * (count - 1) if count else []
            for gaps in itertools.product((0, 1, 2), *inner, (0, 1, 2)):
                text = "|" * gaps[0]
                text += (
                    "".join(w + "|" * n for w, n in zip(words, gaps[1:], strict=True))
                    if words
                    else ""
                )
                best = max(best, best_alignment(log_probs, [TOKENS.index(s) for s in text]))
            if best > -math.inf:
                found[words] = best
    return found


def likeliest(model: NgramModel, words: Sentence) -> float:
    """Natural log-probability when one may back off before any word, also where one need not.

    That is what a back-off acceptor without failure arcs gives, and no less than the model's own.
    """
    ways: dict[Sentence, float] = {("<s>",)[: model.order - 1]: 0.0}
    for word in (*words, "</s>"):
        following: dict[Sentence, float] = {}
        for full, score in ways.items():
            history, total = full, score
            while True:
                entry = model.grams[len(history)].get((*history, word))
                if entry is not None:
                    longer = (*history, word)[-(model.order - 1) :]
                    following[longer] = max(following.get(longer, -math.inf), total + entry[0])
                if not history:
                    break
                total += model.grams[len(history) - 1].get(history, (0.0, 0.0))[1]
                history = history[1:]
        ways = following
    return math.log(10) * max(ways.values())

"""Recordings of any length: emissions window by window, segments at pauses, words with times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from unispeech.data.tokens import WORD_BOUNDARY
from unispeech.decode.alignment import Aligned, Spelling, align, runs
from unispeech.decode.engine import Decoder
from unispeech.decode.graph import Language
from unispeech.errors import DataError, NumericsError
from unispeech.models.ctc import CtcModel
from unispeech.models.windows import Reader, encode_windows

Emission = npt.NDArray[np.float32]

PIECE_START = "\u2581"
"""Begins the first piece of a word in sentencepiece's vocabularies."""


class Segment(NamedTuple):
    """Log-probabilities (frames, tokens) of consecutive frames, the first of which is `first`."""

    first: int
    log_probs: Emission


class Word(NamedTuple):
    """A word (or phone), its frames, the last one included, and its confidence.

    The confidence is the mean over the word's tokens of the mean posterior over each one's frames.
    """

    text: str
    first: int
    last: int
    confidence: float


WordFinder = Callable[[Iterable[Segment]], Iterator[Word]]


def check_language(tokens: Sequence[str], language: Language, where: object) -> None:
    """Make sure that a model and a language folder number the same tokens in the same way.

    Raises:
        DataError: they do not.
    """
    if list(tokens) != language.tokens:
        raise DataError(
            "the model and the language folder have different tokens",
            where=where,
            expected=f"{len(tokens)} tokens: {' '.join(tokens[:6])} ...",
            found=f"{len(language.tokens)}: {' '.join(language.tokens[:6])} ...",
            remedy="use the language folder that the model was trained with",
        )


def stream_emissions(
    model: CtcModel,
    read: Reader,
    samples: int,
    window: float = 20.0,
    context: float = 2.0,
    name: object = "recording",
) -> Iterator[Emission]:
    """Log-probabilities (frames, tokens) of a recording, one window after the other.

    Args:
        model: in evaluation mode.
        read: gives samples, 16 kHz, on the model's device.
        samples: length of the recording.
        window: seconds kept of each window.
        context: seconds seen on each side of it and thrown away.
        name: of the recording, for the message.

    Raises:
        NumericsError: a log-probability is not a number.
    """
    for piece in encode_windows(model.encoder, read, samples, None, window, context):
        with torch.inference_mode():
            log_probs = torch.log_softmax(model.proj(piece.last).float(), dim=-1)
        if bool(log_probs.isnan().any()):
            raise NumericsError(
                "a log-probability is not a number",
                where=f"{name}, window from frame {piece.first}",
                remedy="check the checkpoint and the audio",
            )
        yield log_probs.cpu().numpy()


def split(
    pieces: Iterable[Emission], pause: int, longest: int, blank: int = 0
) -> Iterator[Segment]:
    """Cut emissions where the best token is blank for `pause` frames, in the middle of those.

    Where the cuts are does not depend on the pieces. Silence beyond `pause` is dropped; without a
    pause, a segment of `longest` frames is cut behind the most certain blank of its second half.

    Args:
        pieces: log-probabilities (frames, tokens) of consecutive frames.
        pause: at least 2.
        longest: at least 2 times `pause`.
        blank: column of the CTC blank.
    """
    half = pause // 2
    held: list[npt.NDArray[np.float32]] = []
    first = silent = 0
    is_empty = True
    for piece in pieces:
        for row, is_blank in zip(piece, piece.argmax(axis=1) == blank, strict=True):
            held.append(row)
            silent = silent + 1 if is_blank else 0
            is_empty = is_empty and bool(is_blank)
            if is_empty and len(held) > half:
                del held[0]
                first += 1
            elif not is_empty and (silent >= pause or len(held) >= longest):
                size = len(held) - (silent - half)
                if silent < pause:
                    second = np.array([frame[blank] for frame in held[len(held) // 2 :]])
                    size = len(held) // 2 + int(second.argmax()) + 1
                yield Segment(first, np.stack(held[:size]))
                first, held = first + size, held[size:]
                is_empty = all(int(frame.argmax()) == blank for frame in held)
    if not is_empty:
        yield Segment(first, np.stack(held))


def greedy_words(
    segments: Iterable[Segment], tokens: Sequence[str], units: str, pause: int
) -> Iterator[Word]:
    """Words of the best token of every frame; where the recording was cut does not matter.

    Args:
        segments: consecutive parts of the emissions; what lies between two is silence.
        tokens: the symbols of the columns, the blank first.
        units: what the tokens are; each phone is a word of its own.
        pause: so many silent frames end a word, too: models that learnt from single utterances do
            not know of boundaries behind the last word.
    """
    spelled: list[Aligned] = []
    following, label = -1, 0
    for segment in segments:
        for number, one in enumerate(runs(segment.log_probs)):
            begins = one.first == 0 and segment.first == following and number == 0
            if begins and one.token == label:
                # A cut inside a token: the word has it already.
                continue
            symbol = tokens[one.token]
            one = _shifted(one, segment.first)
            ends_word = symbol == WORD_BOUNDARY or symbol.startswith(PIECE_START)
            ends_word = ends_word or units == "phones"
            if spelled and (ends_word or one.first - spelled[-1].last > pause):
                yield _word(spelled, tokens)
                spelled = []
            if symbol != WORD_BOUNDARY:
                spelled.append(one)
        following = segment.first + len(segment.log_probs)
        label = int(segment.log_probs[-1].argmax())
    if spelled:
        yield _word(spelled, tokens)


def graph_words(
    segments: Iterable[Segment], decoder: Decoder, language: Language
) -> Iterator[Word]:
    """Words of a lexicon and a language model, one sentence for each segment.

    The frames of the words are those of the best path that spells them. Words at the end of a
    segment that leave no room for their spelling, because the search stopped inside one, are left
    out.

    Args:
        segments: parts of the emissions.
        decoder: a back-end on the graph of the language folder.
        language: tokens, words and spellings of that folder.
    """
    symbols = {number: word for word, number in language.words.items()}
    number = {token: place for place, token in enumerate(language.tokens)}
    spellings: dict[str, list[Spelling]] = {}
    for word, spelling in language.lexicon:
        spellings.setdefault(word, []).append(tuple(number[token] for token in spelling))
    boundary = number.get(WORD_BOUNDARY, -1)
    for segment in segments:
        ids, _, _ = decoder.decode([segment.log_probs])[0]
        words = [symbols[one] for one in ids]
        found = None
        while words and found is None:
            found = align(segment.log_probs, _sentence(words, spellings, boundary))
            words = words if found is not None else words[:-1]
        # The first entry is the boundary that an utterance may begin with.
        for text, spelled in zip(words, (found or [[]])[1:], strict=True):
            letters = [_shifted(one, segment.first) for one in spelled if one.token != boundary]
            yield _word(letters, language.tokens)._replace(text=text)


def _sentence(
    words: Sequence[str], spellings: dict[str, list[Spelling]], boundary: int
) -> list[list[Spelling]]:
    """Spellings as the graph has them: the first and the last boundary may be missing."""
    choices = [spellings[word] for word in words]
    last = [s[:-1] for s in choices[-1] if s[-1] == boundary]
    begin: list[Spelling] = [(), (boundary,)] if boundary >= 0 else [()]
    return [begin, *choices[:-1], [*choices[-1], *last]]


def _shifted(one: Aligned, frames: int) -> Aligned:
    return one._replace(first=one.first + frames, last=one.last + frames)


def _word(spelled: Sequence[Aligned], tokens: Sequence[str]) -> Word:
    text = "".join(tokens[one.token] for one in spelled).replace(PIECE_START, "")
    mean = sum(one.probability for one in spelled) / len(spelled)
    return Word(text, spelled[0].first, spelled[-1].last, mean)

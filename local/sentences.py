"""Sentences from a small grammar, for corpora that are made up.

The one of this file is English, with four to nine words a sentence. Every category is a deck of
cards: a word comes back only after all the others of its category were dealt, so that a few hundred
sentences use the whole vocabulary. Homophones (two/to) are left out, because the speech could not
tell them apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

WORDS = {
    "determiner": "the a this that every another my your our their her",
    "plurals_determiner": "the some many these those several most few",
    "adjective": """young old small large quiet gentle angry happy clever lazy brave careful
        famous strange hungry tired golden silver purple yellow orange green black brown broken
        empty heavy narrow simple modern ancient frozen sudden friendly nervous proud polite
        honest foreign local""",
    "person": """farmer teacher doctor sailor painter baker lawyer singer captain student soldier
        driver gardener dancer neighbor stranger uncle sister brother mother father cousin
        merchant hunter carpenter engineer""",
    "people": """farmers teachers children doctors sailors painters visitors singers students
        soldiers travelers gardeners dancers neighbors strangers women villagers musicians
        families workers""",
    "animal": "dog cat horse rabbit monkey tiger eagle turtle donkey spider camel parrot",
    "thing": """basket bottle blanket candle carpet clock hammer jacket kettle ladder lantern
        letter mirror needle notebook package pencil picture pillow pocket ribbon shovel table
        ticket trumpet umbrella violin wagon wallet window bucket button camera diamond engine
        feather guitar helmet""",
    "things": """apples baskets bottles candles coins flowers letters lemons melons mushrooms
        oranges packages paintings pencils potatoes pumpkins ribbons stones tomatoes windows""",
    "place": """market garden village river castle forest harbor kitchen library mountain museum
        office palace station theater tower valley island bridge church desert factory hospital
        meadow""",
    "transitive": """found carried opened painted noticed followed dropped repaired borrowed
        covered finished collected admired forgot ordered protected remembered destroyed examined
        bought watched touched wanted delivered cleaned""",
    "intransitive": """walked waited laughed arrived worked vanished listened whispered rested
        wandered danced stumbled returned shouted gathered slept""",
    "saying": "said believed thought knew hoped promised",
    "adverb": """slowly quickly quietly suddenly gladly rarely often always never finally calmly
        eagerly loudly badly secretly politely almost""",
    "preposition": "near behind inside beside under across around above against beyond",
    "direction": "into toward past through along from",
    "number": """three five six seven nine ten eleven twelve thirteen fourteen fifteen twenty
        thirty forty fifty sixty seventy""",
    "time": """yesterday today tonight again before later once early together forever""",
    "day": "monday tuesday thursday friday saturday sunday",
    "season": "summer winter autumn morning evening",
    "name": """anna peter martha oliver helen victor emily jacob nora samuel laura arthur clara
        henry julia dennis""",
    "pronoun": "he she they we",
    "auxiliary": "could should must might would did",
    "conjunction": "because although while until",
    "join": "and or but",
}
# The base forms after an auxiliary.
WORDS["base"] = """find carry open paint follow drop repair borrow cover finish collect admire
    forget order protect remember examine watch clean"""

PHRASES = {
    "PERSON": ("determiner person", "determiner adjective person", "name", "plurals"),
    "plurals": ("plurals_determiner people", "number people", "number adjective people"),
    "BEING": ("PERSON", "PERSON", "determiner animal", "determiner adjective animal", "pronoun"),
    "OBJECT": (
        "determiner thing",
        "determiner adjective thing",
        "number things",
        "plurals_determiner things",
        "number adjective things",
        "determiner animal",
    ),
    "WHERE": ("preposition determiner place", "preposition the place"),
    "WHITHER": ("direction the place", "direction determiner adjective place"),
    "WHEN": ("time", "on day", "in the season"),
    "SENTENCE": (
        "BEING transitive OBJECT",
        "BEING adverb transitive OBJECT",
        "BEING transitive OBJECT WHERE",
        "BEING transitive OBJECT WHEN",
        "BEING intransitive WHITHER",
        "BEING adverb intransitive WHERE",
        "BEING intransitive WHITHER WHEN",
        "PERSON auxiliary base OBJECT",
        "PERSON auxiliary not base OBJECT",
        "name saying pronoun auxiliary base OBJECT",
        "name join name transitive OBJECT",
        "there were number things WHERE",
        "BEING intransitive conjunction pronoun transitive OBJECT",
        "WHEN PERSON transitive OBJECT",
    ),
}
SHORTEST, LONGEST = 4, 9


class Rules(NamedTuple):
    """A grammar: words by category, phrases by symbol, and what is done to whole sentences."""

    words: Mapping[str, Sequence[str]]
    phrases: Mapping[str, Sequence[str]]
    finish: Callable[[list[str]], list[str]] = list


VOWELS = "aeiou"


def vocabulary() -> set[str]:
    """All words that the grammar can use."""
    words = {word for category in WORDS.values() for word in category.split()}
    literal = {w for rules in PHRASES.values() for rule in rules for w in rule.split()}
    return words | {w for w in literal if w not in WORDS and w not in PHRASES} | {"an"}


class Grammar:
    """Sentences in lower case without punctuation; equal seeds give equal sentences.

    Args:
        seed: of all choices.
        rules: the grammar; English when not given.
    """

    def __init__(self, seed: int, rules: Rules | None = None) -> None:
        self._random = random.Random(seed)
        self._rules = rules or ENGLISH
        self._decks: dict[str, list[str]] = {}

    def sentences(
        self, exclude: Collection[str] = (), words: Collection[str] | None = None
    ) -> Iterator[str]:
        """Endless different sentences that are not in `exclude` and use only `words`."""
        seen = set(exclude)
        while True:
            sentence = self._sentence()
            known = words is None or set(sentence.split()).issubset(words)
            if sentence not in seen and known:
                seen.add(sentence)
                yield sentence

    def _sentence(self) -> str:
        while True:
            words = self._expand("SENTENCE")
            if SHORTEST <= len(words) <= LONGEST and len(set(words) - {"the"}) > 2:
                return " ".join(self._rules.finish(words))

    def _expand(self, symbol: str) -> list[str]:
        if symbol in self._rules.phrases:
            rule = self._random.choice(self._rules.phrases[symbol])
            return [word for part in rule.split() for word in self._expand(part)]
        return self._deal(symbol).split() if symbol in self._rules.words else [symbol]

    def _deal(self, category: str) -> str:
        deck = self._decks.setdefault(category, [])
        if not deck:
            deck.extend(self._rules.words[category])
            self._random.shuffle(deck)
        return deck.pop()


def _articles(words: list[str]) -> list[str]:
    followers = [*words[1:], ""]
    return [
        "an" if word == "a" and follower[:1] in VOWELS and follower else word
        for word, follower in zip(words, followers, strict=True)
    ]


ENGLISH = Rules({name: words.split() for name, words in WORDS.items()}, PHRASES, _articles)

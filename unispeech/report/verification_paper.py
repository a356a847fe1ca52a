"""Published equal error rates on Vox1-O, E and H (cleaned lists), as data.

Sources: the README of the authors' speaker verification, the READMEs of WavLM and of their
repository, the papers arXiv:2110.13900 (WavLM) and arXiv:2110.05777, and wespeaker's VoxCeleb
recipes. They disagree about the same systems: each row says where it is
from. All in percent.
"""

from __future__ import annotations

from collections.abc import Iterator

from unispeech.config import Config
from unispeech.errors import UsageError, nearest

CONDITIONS = ("Vox1-O", "Vox1-E", "Vox1-H")
"""Columns of the table; cleaned lists."""

CLEANED = "(cleaned)"
"""What ends the name of a cleaned list; the originals have no published numbers here."""

_SOURCES = {
    "verification": "README of the authors' speaker verification",
    "WavLM README": "README of WavLM, image of the table",
    "root README": "README of the authors' repository",
    "WavLM": "WavLM (arXiv:2110.13900)",
    "2110.05777": "abstract of arXiv:2110.05777",
    "wespeaker": "README of wespeaker's VoxCeleb recipe",
}

# system | encoder ("*": E and H are recalled) | training and scoring | O | E | H | source
_TABLE = """
ECAPA-TDNN           | filter banks | plain                          | 1.080 | 1.200 | 2.127 | verification
HuBERT Large         | frozen       | plain                          | 0.888 | 0.912 | 1.853 | verification
XLSR                 | frozen       | plain                          | 0.915 | 0.945 | 1.895 | verification
UniSpeech-SAT Large  | frozen       | plain                          | 0.771 | 0.781 | 1.669 | verification
WavLM Base+          | frozen       | plain                          | 0.84  | 0.928 | 1.758 | verification
WavLM Large          | frozen       | plain                          | 0.75  | 0.764 | 1.548 | verification
HuBERT Large         | trained      | large margin, calibration      | 0.585 | 0.654 | 1.342 | verification
XLSR                 | trained      | large margin, calibration      | 0.564 | 0.605 | 1.230 | verification
UniSpeech-SAT Large  | trained      | large margin, calibration      | 0.564 | 0.561 | 1.230 | verification
WavLM Large          | trained      | large margin, calibration      | 0.431 | 0.538 | 1.154 | verification
ECAPA-TDNN           | filter banks | plain                          | 0.87  | 1.12  | 2.12  | WavLM README
WavLM Large          | frozen       | plain                          | 0.638 | 0.687 | 1.457 | WavLM README
WavLM Large          | frozen       | plain                          | 0.59  | 0.65  | 1.328 | root README
WavLM Large          | trained      | plain                          | 0.505 | 0.579 | 1.176 | root README
WavLM Large          | trained      | large margin, calibration      | 0.33  | 0.477 | 0.984 | root README
WavLM Large          | trained*     | large margin, calibration      | 0.383 | 0.480 | 0.986 | WavLM
ensemble of three    | trained      | large margin, calibration      | 0.431 | 0.507 | 1.081 | 2110.05777
ensemble of three, first version | trained | large margin, calibration | 0.479 | 0.536 | 1.023 | 2110.05777
WavLM Large          | frozen       | plain                          | 0.595 | 0.719 | 1.501 | wespeaker
WavLM Large          | frozen       | AS-norm                        | 0.548 | 0.656 | 1.355 | wespeaker
WavLM Large          | frozen       | AS-norm, calibration           | 0.489 | 0.619 | 1.224 | wespeaker
WavLM Large          | trained      | plain                          | 0.542 | 0.635 | 1.355 | wespeaker
WavLM Large          | trained      | AS-norm                        | 0.521 | 0.594 | 1.237 | wespeaker
WavLM Large          | trained      | AS-norm, calibration           | 0.494 | 0.576 | 1.205 | wespeaker
WavLM Large          | trained      | large margin                   | 0.521 | 0.626 | 1.344 | wespeaker
WavLM Large          | trained      | large margin, AS-norm          | 0.495 | 0.588 | 1.247 | wespeaker
WavLM Large          | trained      | large margin, AS-norm, calibration | 0.415 | 0.551 | 1.118 | wespeaker
w2v-BERT 2.0         | trained      | plain                          | 0.335 | 0.509 | 1.062 | wespeaker
w2v-BERT 2.0         | trained      | AS-norm                        | 0.319 | 0.492 | 1.036 | wespeaker
w2v-BERT 2.0         | trained      | large margin                   | 0.250 | 0.398 | 0.838 | wespeaker
ECAPA-TDNN 512       | filter banks | plain                          | 1.069 | 1.209 | 2.310 | wespeaker
ECAPA-TDNN 512       | filter banks | large margin, AS-norm          | 0.782 | 1.005 | 1.824 | wespeaker
ECAPA-TDNN 1024      | filter banks | large margin, AS-norm, calibration | 0.707 | 0.894 | 1.615 | wespeaker
ResNet293            | filter banks | not stated                     | 0.425 | 0.641 | 1.146 | wespeaker
SimAM-ResNet100 (VoxBlink2) | filter banks | not stated              | 0.202 | 0.421 | 0.795 | wespeaker
ResNet34, PLDA       | filter banks | plain                          | 1.207 | 1.338 | 2.528 | wespeaker
WavLM Base+, factorised pooling | not stated | not stated           | 0.766 | 0.790 | 1.583 | wespeaker
"""  # noqa: E501


class VerificationRow(Config):
    """One published system.

    `encoder` is `frozen`, `trained`, `filter banks` or, as `scoring`, `not stated`; `values` are
    the equal error rates on O, E and H; `recalled` are the lists whose number was written down from
    memory.
    """

    system: str
    encoder: str
    scoring: str
    values: tuple[float, float, float]
    source: str
    recalled: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What identifies the row: system, encoder, scoring and source."""
        return f"{self.system}, {self.encoder}, {self.scoring} [{self.source}]"

    @property
    def origin(self) -> str:
        """The source in full."""
        return _SOURCES[self.source]

    def value(self, condition: str) -> float | None:
        """The rate on a list such as `Vox1-O (cleaned)`, or None of any other."""
        known = dict(zip((f"{name} {CLEANED}" for name in CONDITIONS), self.values, strict=True))
        return known.get(condition)


def _rows() -> Iterator[VerificationRow]:
    for line in _TABLE.strip().splitlines():
        system, encoder, scoring, *values, source = (cell.strip() for cell in line.split("|"))
        yield VerificationRow(
            system=system,
            encoder=encoder.removesuffix("*"),
            scoring=scoring,
            values=(float(values[0]), float(values[1]), float(values[2])),
            source=source,
            recalled=CONDITIONS[1:] if encoder.endswith("*") else (),
        )


VOXCELEB: tuple[VerificationRow, ...] = tuple(_rows())


def find(text: str) -> VerificationRow:
    """The row of a label; without `[source]` the first of that system, encoder and scoring.

    Raises:
        UsageError: there is none.
    """
    for row in VOXCELEB:
        if text.casefold() in (row.label.casefold(), row.label.split(" [")[0].casefold()):
            return row
    labels = [row.label for row in VOXCELEB]
    raise UsageError(
        f"no published system '{text}'{nearest(text, labels)}",
        where="--paper",
        expected="system, encoder, scoring as in the report's table",
    )


def rows_of_recipe(encoder: str | None) -> dict[str, VerificationRow]:
    """The rows that the systems and scorings of the recipe correspond to.

    Args:
        encoder: published name of the encoder; None has no rows.
    """
    wanted = {"fbank, cosine": "ECAPA-TDNN, filter banks, plain"}
    if encoder:
        trained = f"{encoder}, trained"
        wanted |= {
            "frozen, cosine": f"{encoder}, frozen, plain",
            "joint, cosine": f"{trained}, plain",
            "large_margin, AS-norm, calibrated": f"{trained}, large margin, calibration",
        }
    labels = {row.label.split(" [")[0] for row in VOXCELEB}
    return {name: find(label) for name, label in wanted.items() if label in labels}

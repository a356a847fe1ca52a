"""Fine-tuning presets of every budget against the published settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from unispeech.config import load
from unispeech.train.config import FinetuneConfig
from unispeech.train.optim import learning_rate

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "egs/librispeech/conf/finetune"
COMMON_VOICE = ROOT / "egs/commonvoice/conf/unispeech_large/finetune.yaml"

# Updates | peak rate | updates of warm-up, constant rate, decay | frozen updates | masked frames |
# masked channels | LayerDrop | dropout | million samples of a GPU and update. wav2vec 2.0:
# fairseq's configurations base_* and vox_*; HuBERT: its base_10h; base_100h: the released scripts
# of HuBERT CTC and ILS-SSL; Common Voice: the released script of UniSpeech.
PUBLISHED = """
base_10min         |  13000 | 5e-5 |  1300   5200   6500 | 10000 | .65 | .25 | .1  | 0  | 12.8
base_1h            |  13000 | 5e-5 |  1300   5200   6500 | 10000 | .65 | .25 | .1  | 0  | 12.8
base_10h           |  20000 | 5e-5 |  2000   8000  10000 | 10000 | .65 | .5  | .05 | 0  | 12.8
base_100h          |  80000 | 3e-5 |  8000  32000  40000 |     0 | .65 | .5  | .1  | .1 | 3.2
wav2vec2_base_100h |  80000 | 3e-5 |  8000  32000  40000 |     0 | .65 | .5  | .1  | 0  | 12.8
base_960h          | 320000 | 1e-5 | 32000 128000 160000 |     0 | .5  | .1  | .1  | 0  | 3.2
hubert_base_10h    |  25000 | 2e-5 |  8000      0  72000 | 10000 | .75 | .5  | .1  | 0  | 3.2
large_10min        |  13000 | 1e-4 |  1300   5200   6500 | 10000 | .65 | .25 | .1  | 0  | 6.4
large_1h           |  13000 | 3e-4 |  1300   5200   6500 | 10000 | .75 | .25 | .1  | 0  | 6.4
large_10h          |  20000 | 1e-4 |  2000   8000  10000 | 10000 | .75 | .25 | .1  | 0  | 6.4
large_100h         |  80000 | 3e-5 |  8000  32000  40000 | 10000 | .5  | .5  | .1  | 0  | 6.4
large_960h         | 320000 | 3e-5 | 32000 128000 160000 | 10000 | .5  | .25 | .1  | 0  | 1.28
Common Voice, 1 h  |  20000 | 2e-5 |  2000   8000  10000 |  2000 | .75 | .25 | .1  | .1 | 1
"""
ROWS = {
    name: [float(number) for cell in cells for number in cell.split()]
    for name, *cells in (
        [cell.strip() for cell in line.split("|")] for line in PUBLISHED.strip().splitlines()
    )
}


def preset(name: str) -> FinetuneConfig:
    return load(FinetuneConfig, [COMMON_VOICE if " " in name else FOLDER / f"{name}.yaml"])


def test_every_budget_has_a_preset_for_both_sizes() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {name for name in ROWS if " " not in name}
    sizes = {f"{size}_{hours}" for size in ("base", "large") for hours in
             ("10min", "1h", "10h", "100h", "960h")}  # fmt: skip
    assert sizes <= set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_values_are_the_published_ones(name: str) -> None:
    config = preset(name)
    ctc, optim, changed = config.ctc, config.optim, config.overrides
    found = [
        config.train.updates, optim.lr, optim.warmup, optim.hold, optim.decay,
        config.freeze_updates, ctc.time_mask.prob, ctc.channel_mask.prob, changed.layer_drop,
        changed.dropout, config.data.batching.max_seconds * config.train.accumulate * 0.016,
    ]  # fmt: skip
    assert found == pytest.approx(ROWS[name])
    assert changed.attention_dropout == changed.input_dropout == changed.dropout
    assert (changed.activation_dropout, changed.feature_grad_mult) == (0.1, 0.0)
    assert (ctc.time_mask.length, ctc.channel_mask.length) == (10, 64)
    assert (optim.betas, optim.eps, optim.weight_decay, optim.clip) == ((0.9, 0.98), 1e-8, 0, 0)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "hubert_base_10h"])
def test_the_rate_ends_at_a_twentieth_of_its_peak(name: str) -> None:
    config = preset(name)
    updates, peak = config.train.updates, config.optim.lr
    assert learning_rate(config.optim, updates // 2, updates) == pytest.approx(peak)
    assert learning_rate(config.optim, updates, updates) == pytest.approx(0.05 * peak)
    # Three quarters of the way the exponential decay has reached the square root of that.
    assert learning_rate(config.optim, updates * 3 // 4, updates) == pytest.approx(peak * 0.05**0.5)


def test_common_voice_trains_as_the_script() -> None:
    config = preset("Common Voice, 1 h")
    assert (config.train.seed, config.ctc.final_dropout) == (1337, 0.1)
    assert preset("base_100h").train.seed == 2337

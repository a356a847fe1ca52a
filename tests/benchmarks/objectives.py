"""One training step of every objective: our encoder against transformers' below the same heads.

    python tests/benchmarks/objectives.py [--threads 2] [--repeats 5] [--seconds 10] [--rows 4]
        [--precision fp32] [--objectives hubert ils ...] [--json FILE]

Encoders have the size of Base and the same weights on both sides, heads, masks and distractors are
the same, and so are the losses. A step is forward, objective, backward, clipping and AdamW. Both
sides take their turns in one process. Printed are medians, audio seconds a second, the ratio, and
the peak memory of one step above the resting size, each measured in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import Table, in_own_process, print_peak, save, timed, training_step
from torch import Tensor, nn
from transformers import AutoModel

from unispeech.config import load
from unispeech.hub.save import save_huggingface
from unispeech.models.config import EncoderConfig, HeadsConfig
from unispeech.models.draws import draw, layout
from unispeech.models.encoder import Encoder, EncoderOutput, FrontEnd
from unispeech.models.families import PRESETS
from unispeech.models.objective import (
    MaskedPredictionConfig,
    MultitaskConfig,
    ObjectiveConfig,
    family_of,
)
from unispeech.models.pretraining import PretrainingModel, Targets
from unispeech.models.speech import SpeechModel
from unispeech.train.config import PretrainConfig

CONF = Path(__file__).parents[2] / "egs/librispeech/conf"
FOLDERS = {
    "hubert": "hubert_base_it1",
    "ils": "ils_base",
    "unispeech_sat": "unispeech_sat_base",
    "wavlm": "wavlm_base",
    "wav2vec2": "wav2vec2_base",
}
OBJECTIVES = (*FOLDERS, "unispeech")
SIDES = ("ours", "peer")
COLUMNS = {
    "objective": "s", "precision": "s", "loss": ".4f", "peer loss": ".4f", "s": ".2f",
    "peer s": ".2f", "audio s/s": ".2f", "ratio": ".2f", "MB": ".0f", "peer MB": ".0f",
}  # fmt: skip
CLUSTERS, TOKENS = 500, 100


class Peer(nn.Module):
    """An encoder of transformers in the place of ours; utterances of one length."""

    def __init__(self, encoder: nn.Module, config: EncoderConfig) -> None:
        super().__init__()
        self.peer = encoder
        self.config = config
        self.layers: list[Tensor] = []
        for layer in encoder.encoder.layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.layers.append(output if isinstance(output, Tensor) else output[0])

    def front_end(self, waveforms: Tensor, lengths: None, frames: int) -> FrontEnd:
        """Projected frames, as `Encoder.front_end` gives them."""
        features = self.peer.feature_extractor(waveforms).transpose(1, 2)[:, :frames]
        penalty = features.float().square().mean()
        projected = self.peer.feature_projection(features)
        if isinstance(projected, tuple):
            return FrontEnd(projected[0], None, penalty, projected[1])
        return FrontEnd(projected, None, penalty, features)

    def encode(
        self, front: FrontEnd, time_mask: Tensor, dropped: frozenset[int] = frozenset()
    ) -> EncoderOutput:
        """Masked frames through the transformer, as `Encoder.encode`."""
        x = torch.where(time_mask.unsqueeze(2), self.peer.masked_spec_embed, front.frames)
        self.layers = [x]
        last = self.peer.encoder(x).last_hidden_state
        layers, self.layers = tuple(self.layers), []
        lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64)
        return EncoderOutput(last, layers, lengths, None)


def setting(name: str) -> tuple[EncoderConfig, ObjectiveConfig]:
    """Encoder and objective as they are pre-trained, without LayerDrop."""
    if name == "unispeech":
        encoder: EncoderConfig = PRESETS["unispeech_base"].encoder
        objective: ObjectiveConfig = MultitaskConfig()
    else:
        config = load(PretrainConfig, [CONF / FOLDERS[name] / "pretrain.yaml"])
        encoder, objective = config.model, config.objective
    changes: dict[str, object] = {"layer_drop": 0.0}
    if not encoder.gated:
        # transformers has no class for ILS-SSL's position bias without a gate; the other field has
        # no effect in Base.
        changes |= {"relative_position": False, "final_norm": True}
    return encoder.model_copy(update=changes), objective


def transformers_encoder(ours: Encoder, objective: ObjectiveConfig) -> nn.Module:
    """The same weights in transformers."""
    family = family_of(ours.config, objective)
    # Without its bias ILS-SSL has HuBERT's encoder.
    whole = SpeechModel("hubert" if family == "ils" else family, ours.config, HeadsConfig())
    whole.encoder = ours
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(whole, Path(folder) / "m")
        theirs = AutoModel.from_pretrained(Path(folder) / "m")
    theirs.config.layerdrop = 0.0
    return theirs


def step_of(
    name: str, side: str, precision: str, rows: int, seconds: float
) -> tuple[Callable[[], float], PretrainingModel]:
    """The training step of one side, which returns the loss, and its model."""
    encoder, objective = setting(name)
    is_masked = isinstance(objective, MaskedPredictionConfig)
    torch.manual_seed(0)
    tokens = TOKENS if isinstance(objective, MultitaskConfig) else 0
    model = PretrainingModel(encoder, objective, [CLUSTERS] if is_masked else [], tokens)
    if side == "peer":
        model.encoder = Peer(transformers_encoder(model.encoder, objective), encoder)  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(rows, round(seconds * 16000), generator=generator)
    frames = (wavs.shape[1] - 400) // 320 + 1
    targets = Targets()
    if is_masked:
        labels = torch.randint(CLUSTERS, (rows, frames), generator=generator)
        targets = Targets(labels=(labels,), ratios=(1,))
    elif tokens:
        spoken = [frames // 4] * rows
        targets = Targets(
            tokens=torch.randint(1, tokens, (sum(spoken),), generator=generator),
            token_lengths=torch.tensor(spoken),
        )
    batch = layout(encoder, *wavs.shape, None, targets.labels, targets.ratios)
    draws = draw(objective, encoder, batch, torch.arange(rows), 0, 1)

    def loss() -> Tensor:
        output = model(wavs, None, targets, draws)
        return output.loss / output.sample_size

    return training_step(model, loss, precision), model


def compare(name: str, args: argparse.Namespace, table: Table) -> None:
    """Time both sides of one objective and print its row."""
    made = {s: step_of(name, s, args.precision, args.rows, args.seconds) for s in SIDES}
    losses = []
    for step, model in made.values():
        # Without dropout both sides have one loss.
        losses.append(step_loss(step, model))
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(args.repeats + 1):
        for side, (step, _) in made.items():
            spent = timed(step)
            if repeat:
                times[side].append(spent)
    size = [args.precision, str(args.rows), str(args.seconds)]
    memory = [in_own_process(__file__, [name, side, *size], args.threads) for side in SIDES]
    ours, peer = (statistics.median(times[side]) for side in SIDES)
    audio = args.rows * args.seconds
    table.add(name, args.precision, *losses, ours, peer, audio / ours, peer / ours, *memory)


def step_loss(step: Callable[[], float], model: PretrainingModel) -> float:
    """The loss of a step without dropout."""
    model.eval()
    loss = step()
    model.train()
    return loss


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        name, side, precision, rows, seconds = args.memory
        step, model = step_of(name, side, precision, int(rows), float(seconds))
        model.train()
        print_peak(step)
        return
    table = Table(COLUMNS)
    for name in args.objectives:
        compare(name, args, table)
    save(args.json, [table])


if __name__ == "__main__":
    main()

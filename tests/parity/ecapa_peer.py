"""SpeechBrain's ECAPA-TDNN with our weights, and the weights that both sides share.

Run with a path, it writes SpeechBrain's outputs, which the test reads where SpeechBrain is not
installed: `python tests/parity/ecapa_peer.py tests/parity/data/ecapa_speechbrain.npz`.

What differs is put aside: SpeechBrain reflects at the ends instead of padding with zeros, has a
batch norm after the aggregation, and ReLU and batch norm inside the attention. Its Res2 blocks let
the first group of channels pass, ours the last: a permutation of channels.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import nn

INPUTS, CHANNELS, GROUPS, BOTTLENECK, EMBEDDING = 20, 32, 8, 16, 24


def shared_weights(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights for our names, the same on every machine."""
    rng = np.random.default_rng(7)
    weights = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        drawn = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        if name.endswith(("running_var", "bn.weight")):
            drawn = 1.0 + 0.3 * np.tanh(drawn)
        weights[name] = torch.from_numpy(drawn.astype(np.float32))
    return weights


def example() -> torch.Tensor:
    """Features `(2, INPUTS, 40)`."""
    rng = np.random.default_rng(8)
    return torch.from_numpy(rng.standard_normal((2, INPUTS, 40)).astype(np.float32))


def speechbrain_outputs(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Outputs of each part of SpeechBrain's network on `example()`."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    peer = ECAPA_TDNN(
        INPUTS,
        lin_neurons=EMBEDDING,
        channels=[CHANNELS] * 4 + [3 * CHANNELS],
        attention_channels=BOTTLENECK,
        res2net_scale=GROUPS,
        se_channels=BOTTLENECK,
        global_context=False,
    ).eval()
    for module in peer.modules():
        if hasattr(module, "padding_mode"):
            module.padding_mode = "constant"
    peer.asp.tdnn.activation = nn.Identity()
    state = {}
    width = CHANNELS // GROUPS
    # Our last group is SpeechBrain's first.
    order = torch.arange(CHANNELS).roll(width)

    def unit(theirs: str, ours: str) -> None:
        for kind in ("weight", "bias"):
            state[f"{theirs}.conv.conv.{kind}"] = weights[f"{ours}.conv.{kind}"]
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            state[f"{theirs}.norm.norm.{kind}"] = weights[f"{ours}.bn.{kind}"]

    unit("blocks.0", "network.layer1")
    for index in range(3):
        ours, theirs = f"network.blocks.{index}", f"blocks.{index + 1}"
        unit(f"{theirs}.tdnn1", f"{ours}.unit1")
        unit(f"{theirs}.tdnn2", f"{ours}.unit2")
        for name, value in list(state.items()):
            if name.startswith(f"{theirs}.tdnn1") and value.ndim:
                state[name] = value[order]
        key = f"{theirs}.tdnn2.conv.conv.weight"
        state[key] = state[key][:, order]
        for group in range(GROUPS - 1):
            unit(f"{theirs}.res2net_block.blocks.{group}", f"{ours}.res2.units.{group}")
        for number in (1, 2):
            for kind in ("weight", "bias"):
                value = weights[f"{ours}.se.linear{number}.{kind}"]
                value = value.unsqueeze(2) if value.ndim == 2 else value
                state[f"{theirs}.se_block.conv{number}.conv.{kind}"] = value
    for kind in ("weight", "bias"):
        state[f"mfa.conv.conv.{kind}"] = weights[f"network.conv.{kind}"]
        state[f"asp.tdnn.conv.conv.{kind}"] = weights[f"pooling.linear1.{kind}"]
        state[f"asp.conv.conv.{kind}"] = weights[f"pooling.linear2.{kind}"]
        value = weights[f"linear.{kind}"]
        state[f"fc.conv.{kind}"] = value.unsqueeze(2) if value.ndim == 2 else value
    for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        state[f"asp_bn.norm.{kind}"] = weights[f"bn.{kind}"]
    for name, value in peer.state_dict().items():
        if name.startswith(("mfa.norm.", "asp.tdnn.norm.")):
            state[name] = torch.full_like(value, (1 + 1e-5) ** 0.5) if "weight" in name else value
    peer.load_state_dict(state, strict=True)
    found = {}

    def keep(name: str) -> object:
        return lambda module, inputs, output: found.update({name: output.detach().numpy()})

    parts = dict(zip(("layer1", "block0", "block1", "block2"), peer.blocks, strict=True))
    for name, module in {**parts, "frames": peer.mfa, "pooled": peer.asp}.items():
        module.register_forward_hook(keep(name))
    with torch.no_grad():
        found["embedding"] = peer(example().transpose(1, 2))[:, 0].numpy()
    found["pooled"] = found["pooled"][:, :, 0]
    return found


def our_network() -> nn.Module:
    """Our network of the same sizes, with the shared weights."""
    from unispeech.models.speaker import SpeakerModel
    from unispeech.models.speaker_config import SpeakerConfig

    config = SpeakerConfig(
        features="fbank",
        mels=INPUTS,
        channels=CHANNELS,
        groups=GROUPS,
        bottleneck=BOTTLENECK,
        attention_dim=BOTTLENECK,
        embedding=EMBEDDING,
    )
    model = SpeakerModel(config, None)
    model.fbank = None
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    model.load_state_dict(shared_weights(shapes))
    return model.eval()


if __name__ == "__main__":
    np.savez_compressed(sys.argv[1], **speechbrain_outputs(our_network().state_dict()))

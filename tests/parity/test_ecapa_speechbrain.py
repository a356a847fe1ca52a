"""ECAPA-TDNN layer by layer against SpeechBrain, where the two agree."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import ecapa_peer
import numpy as np
import pytest
import torch

STORED = Path(__file__).parent / "data" / "ecapa_speechbrain.npz"


def our_outputs() -> dict[str, np.ndarray]:
    model = ecapa_peer.our_network()
    found = {}
    network = model.network

    def keep(name: str) -> object:
        return lambda module, inputs, output: found.update({name: output.numpy()})

    blocks = {f"block{index}": block for index, block in enumerate(network.blocks)}
    for name, module in {"layer1": network.layer1, **blocks, "frames": network}.items():
        module.register_forward_hook(keep(name))
    with torch.no_grad():
        pooled = model.pooling(network(ecapa_peer.example(), None), None)
        found |= {"pooled": pooled.numpy(), "embedding": model.linear(model.bn(pooled)).numpy()}
    return found


def assert_equal(expected: dict[str, np.ndarray]) -> None:
    ours = our_outputs()
    assert set(ours) == set(expected)
    for name, value in expected.items():
        assert np.abs(value).max() > 0.1, name
        np.testing.assert_allclose(ours[name], value, atol=1e-4, rtol=1e-4, err_msg=name)


def test_every_layer_is_speechbrains() -> None:
    """Outputs stored from SpeechBrain 1.1.2."""
    with np.load(STORED) as stored:
        assert_equal(dict(stored))


@pytest.mark.skipif(
    importlib.util.find_spec("speechbrain") is None, reason="SpeechBrain is not installed"
)
def test_every_layer_is_the_installed_speechbrains() -> None:
    assert_equal(ecapa_peer.speechbrain_outputs(ecapa_peer.our_network().state_dict()))

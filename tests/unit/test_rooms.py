"""Rooms by the image method, the array, diffuse noise."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import coherence

from unispeech.data.config import RoomConfig
from unispeech.data.rooms import (
    MARGIN,
    SPEED_OF_SOUND,
    Room,
    circular_array,
    diffuse_noise,
    draw_room,
    early_part,
    image_responses,
)

RATE = 16000
SIZE = np.array([4.0, 5.0, 3.0])
SOURCE = np.array([1.0, 3.5, 1.6])
MICROPHONE = np.array([2.3, 1.9, 1.1])


def written_out(
    size: npt.NDArray[np.float64],
    reflection: float,
    source: npt.NDArray[np.float64],
    microphone: npt.NDArray[np.float64],
    samples: int,
) -> npt.NDArray[np.float64]:
    """Allen and Berkley's sum, an image at a time, each a windowed sinc at its exact time."""
    found = np.zeros(samples)
    time = np.arange(samples)
    ranges = [range(-math.ceil(samples * SPEED_OF_SOUND / RATE / s), 1) for s in size]
    ranges = [range(own.start - 1, -own.start + 2) for own in ranges]
    for l, m, n, u, v, w in itertools.product(*ranges, (0, 1), (0, 1), (0, 1)):  # noqa: E741
        order, mirror = np.array([l, m, n]), np.array([u, v, w])
        place = (1 - 2 * mirror) * source + 2 * order * size
        distance = float(np.linalg.norm(place - microphone))
        delay = distance / SPEED_OF_SOUND * RATE
        if delay > samples + 40:
            continue
        bounces = int(np.abs(order - mirror).sum() + np.abs(order).sum())
        apart = time - delay
        window = np.where(np.abs(apart) < 40, np.cos(np.pi * apart / 80) ** 2, 0.0)
        found += reflection**bounces / distance * np.sinc(apart) * window
    return found


def test_responses_are_the_sum_written_out() -> None:
    mine = image_responses(SIZE, 0.8, SOURCE, MICROPHONE[None], 400)[0]
    other = written_out(SIZE, 0.8, SOURCE, MICROPHONE, 400)
    # Images that arrive just behind the end would reach into it.
    assert np.abs(mine - other)[:360].max() < 0.01 * np.abs(other).max()


def test_direct_sound_and_the_floor() -> None:
    """Without walls there is one arrival; a floor under both adds one at a known time."""
    distance = float(np.linalg.norm(SOURCE - MICROPHONE))
    free = image_responses(SIZE, 0.0, SOURCE, MICROPHONE[None], 400)[0]
    at = distance / SPEED_OF_SOUND * RATE
    assert abs(int(free.argmax()) - at) <= 0.5
    # A windowed sinc has a sum of one.
    assert free.sum() == pytest.approx(1.0 / distance, rel=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.floats(0.2, 0.8)] * 3), st.tuples(*[st.floats(0.2, 0.8)] * 3))
def test_reciprocity(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    """Source and microphone may change places."""
    a, b = np.array(one) * SIZE, np.array(other) * SIZE
    if np.linalg.norm(a - b) < 0.2:
        return
    there = image_responses(SIZE, 0.7, a, b[None], 500)
    back = image_responses(SIZE, 0.7, b, a[None], 500)
    assert np.allclose(there, back, atol=1e-5)


@pytest.mark.parametrize("t60", [0.15, 0.3, 0.5])
def test_reverberation_time(t60: float) -> None:
    """Schroeder's backward integral of what follows the direct sound, from -5 to -25 dB."""
    measured = []
    for number in range(3):
        size = np.array([5.2, 4.1, 2.8])
        places = np.random.default_rng(number).uniform(0.2, 0.8, (2, 3)) * size
        (response,) = Room(size, t60, places[:1], places[1:]).responses()[0]
        after = response[int(np.abs(response).argmax()) + 32 :].astype(np.float64)
        decay = 10 * np.log10(np.cumsum(after[::-1] ** 2)[::-1] / np.sum(after**2))
        first, last = (int(np.argmax(decay < level)) for level in (-5.0, -25.0))
        measured.append(3 * (last - first) / RATE)
    assert np.mean(measured) == pytest.approx(t60, rel=0.12)


def test_a_peer_has_the_same_response() -> None:
    """The stored response says what made it."""
    path = Path(__file__).parent / "data/room_response.json"
    peer = json.loads(path.read_text(encoding="utf-8"))
    assert (peer["rate"], peer["speed_of_sound"]) == (RATE, SPEED_OF_SOUND)
    size, source, microphone = (np.array(peer[k]) for k in ("size", "source", "microphone"))
    theirs = np.array(peer["response"])
    mine = image_responses(size, peer["reflection"], source, microphone[None], 440)[0]
    mine = mine[: len(theirs)].astype(np.float64)
    # Theirs is for another pressure; the shape is the same.
    scale = float(mine @ theirs / (theirs @ theirs))
    assert np.linalg.norm(mine - scale * theirs) < 0.03 * np.linalg.norm(mine)


def test_circular_array() -> None:
    places = circular_array(np.array([1.0, 2.0, 1.0]), 0.0425, 7)
    assert places[0].tolist() == [1.0, 2.0, 1.0]
    assert np.allclose(np.linalg.norm(places[1:] - places[0], axis=1), 0.0425)
    # Neighbours of a hexagon are as far apart as from the middle.
    around = np.roll(places[1:], 1, axis=0)
    assert np.allclose(np.linalg.norm(places[1:] - around, axis=1), 0.0425)
    assert circular_array(np.array([1.0, 2.0, 1.0]), 0.0425, 1).shape == (1, 3)


def test_diffuse_noise_has_the_coherence_of_an_isotropic_field() -> None:
    places = circular_array(np.zeros(3), 0.0425, 7)
    noise = diffuse_noise(places, 10 * RATE, np.random.default_rng(0))
    assert noise.shape == (7, 10 * RATE)
    assert np.allclose(noise.std(axis=1), 1.0, atol=0.03)
    for one, other in ((0, 1), (1, 4)):
        distance = float(np.linalg.norm(places[one] - places[other]))
        frequencies, squared = coherence(noise[one], noise[other], RATE, nperseg=512)
        expected = np.sinc(2 * frequencies * distance / SPEED_OF_SOUND) ** 2
        # Bands next to a zero are blurred by the window.
        assert np.abs(squared - expected)[2:-2].mean() < 0.04


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.sampled_from([1, 7]))
def test_everything_is_in_the_room(seed: int, speakers: int, channels: int) -> None:
    config = RoomConfig()
    room = draw_room(config, speakers, channels, np.random.default_rng(seed))
    assert room.speakers.shape == (speakers, 3)
    assert room.microphones.shape == (channels, 3)
    assert (room.speakers[:, :2] >= MARGIN - 1e-9).all()
    assert (room.speakers[:, :2] <= room.size[:2] - MARGIN + 1e-9).all()
    assert (room.speakers[:, 2] < room.size[2]).all()
    level = np.linalg.norm(room.speakers[:, :2] - room.microphones[0, :2], axis=1)
    assert (level <= config.distance[1] + 1e-9).all()
    assert config.t60[0] <= room.t60 <= config.t60[1]


def test_early_part() -> None:
    response = np.zeros(2000, np.float32)
    response[[100, 100 + 800, 100 + 801]] = (1.0, 0.5, 0.5)
    early = early_part(response, 0.05)
    assert np.flatnonzero(early).tolist() == [100, 900]


@pytest.mark.parametrize(
    "wrong", [{"t60": (0.5, 0.2)}, {"distance": (0.0, 1.0)}, {"mouth": (1.0, 2.6)}]
)
def test_wrong_ranges(wrong: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="must"):
        RoomConfig.model_validate(wrong)

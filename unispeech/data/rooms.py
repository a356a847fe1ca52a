"""Shoebox rooms: impulse responses by the image method, a circular array, diffuse noise.

The image method is that of Allen and Berkley, J. Acoust. Soc. Am. 65 (4), 1979; the noise has the
coherence of a spherically isotropic field, as in Habets, Cohen and Gannot, J. Acoust. Soc. Am. 124
(5), 2008.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, istft, sosfilt, stft, upfirdn

from unispeech.data.config import RoomConfig
from unispeech.data.manifests import SAMPLING_RATE

SPEED_OF_SOUND = 343.0
"""Metres per second, at 20 degrees Celsius."""
# Images are placed on a grid this much finer than the samples, linearly between its points, and
# then filtered by a windowed sinc of so many samples on each side: below 1 % of a sinc at every
# exact time up to 7 kHz.
FINER, REACH = 16, 40
MARGIN = 0.3
"""Least metres between a wall and anything in the room."""
HIGH_PASS = 50.0
"""Hz below which responses have nothing."""
FFT = 512

Floats = npt.NDArray[np.float64]


class Room(NamedTuple):
    """A room and what stands in it; positions are metres from one lower corner."""

    size: Floats
    """(3,) width, depth, height."""
    t60: float
    """Seconds in which the sound decays by 60 dB."""
    microphones: Floats
    """(channels, 3); channel 0 is in the middle of the array."""
    speakers: Floats
    """(speakers, 3)."""

    def responses(self) -> npt.NDArray[np.float32]:
        """Responses from every speaker to every channel, (speakers, channels, samples).

        The direct sound at a metre is about 1, and a response is as long as the reverberation
        time.
        """
        reflection = reflection_of(self.size, self.t60)
        far = max(math.dist(s, m) for s in self.speakers for m in self.microphones)
        samples = math.ceil(SAMPLING_RATE * (self.t60 + far / SPEED_OF_SOUND)) + REACH
        found = [
            image_responses(self.size, reflection, speaker, self.microphones, samples)
            for speaker in self.speakers
        ]
        # All images have the same sign: without the filter of Allen and Berkley they add up to a
        # pressure that no room has.
        filtered = sosfilt(_high_pass(), np.stack(found).astype(np.float64))
        return np.asarray(filtered, dtype=np.float32)


def draw_room(config: RoomConfig, speakers: int, channels: int, rng: np.random.Generator) -> Room:
    """A room with an array about its middle and speakers around it.

    Args:
        config: ranges of everything that is drawn.
        speakers: how many.
        channels: 1, or 7 for the circular array.
        rng: of all draws.
    """
    size = np.array([rng.uniform(*config.width), rng.uniform(*config.depth),
                     rng.uniform(*config.height)])  # fmt: skip
    middle = size[:2] * rng.uniform(0.4, 0.6, 2)
    centre = np.array([*middle, rng.uniform(*config.table)])
    # Speakers in different directions: a sector of the circle for each.
    turns = (rng.permutation(speakers) + rng.uniform(0.1, 0.9, speakers)) / speakers
    turns = 2.0 * np.pi * (turns + rng.uniform())
    places = []
    for turn in turns:
        direction = np.array([np.cos(turn), np.sin(turn)])
        reach = _to_the_wall(middle, direction, size[:2])
        distance = min(float(rng.uniform(*config.distance)), reach)
        places.append([*(middle + distance * direction), rng.uniform(*config.mouth)])
    microphones = circular_array(centre, config.radius, channels)
    return Room(size, float(rng.uniform(*config.t60)), microphones, np.array(places))


def circular_array(centre: Floats, radius: float, channels: int) -> Floats:
    """Positions (channels, 3): the centre, then evenly spaced on a level circle around it."""
    turns = 2.0 * np.pi * np.arange(channels - 1) / max(channels - 1, 1)
    circle = np.stack([np.cos(turns), np.sin(turns), np.zeros_like(turns)], axis=1)
    return np.asarray(np.concatenate([centre[None], centre + radius * circle]), dtype=np.float64)


def reflection_of(size: Floats, t60: float) -> float:
    """Reflection coefficient of six equal walls whose image method has a reverberation time.

    Sound that goes in one direction meets walls at a steady rate, so that the energy of the images
    is a mean of exponentials over all directions (Lehmann and Johansson, J. Acoust. Soc. Am. 124
    (1), 2008); the time is that of its backward integral from -5 to -25 dB, times three. Eyring's
    formula, which knows one exponential only, gives walls that reverberate half as long again.

    Args:
        size: (3,) metres.
        t60: seconds.
    """
    directions = _directions()
    walls = (directions / size).sum(axis=1)
    scale = walls.mean()
    steps = np.linspace(0.0, 25.0, 501)
    left = (np.exp(-steps[:, None] * walls / scale) / walls).mean(axis=1)
    decibels = 10.0 * np.log10(left / left[0])
    begin, end = np.interp([5.0, 25.0], -decibels, steps)
    rate = 3.0 * (end - begin) / (t60 * scale)
    return math.exp(-rate / (2.0 * SPEED_OF_SOUND))


def image_responses(
    size: Floats, reflection: float, source: Floats, microphones: Floats, samples: int
) -> npt.NDArray[np.float32]:
    """Impulse responses of a shoebox room, (channels, samples), by the image method.

    Args:
        size: (3,) metres.
        reflection: pressure reflection coefficient of all walls, in [0, 1).
        source: (3,) position.
        microphones: (channels, 3) positions.
        samples: length of the responses; every image that arrives within is there.
    """
    longest = samples / SAMPLING_RATE * SPEED_OF_SOUND
    axes = [_images(size[k], reflection, source[k], longest) for k in range(3)]
    strength = axes[0][1][:, None, None] * axes[1][1][None, :, None] * axes[2][1][None, None, :]
    length = (samples + 2 * REACH) * FINER
    found = np.empty((len(microphones), samples), np.float32)
    for channel, place in enumerate(microphones):
        squares = [(axes[k][0] - place[k]) ** 2 for k in range(3)]
        distance = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
        near = distance < longest**2
        distance = np.sqrt(distance[near])
        weight = strength[near] / np.maximum(distance, 1e-3)
        grid = distance * (FINER * SAMPLING_RATE / SPEED_OF_SOUND)
        whole = grid.astype(np.int64)
        part = grid - whole
        fine = np.bincount(whole, weight * (1.0 - part), length)
        fine += np.bincount(whole + 1, weight * part, length)[:length]
        filtered = upfirdn(_kernel(), fine, 1, FINER)
        found[channel] = filtered[REACH : REACH + samples]
    return found


def diffuse_noise(
    microphones: Floats, samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Gaussian noise of unit power in an isotropic field, (channels, samples).

    Two channels at a distance d have the coherence sinc(2 f d / c).
    """
    channels = len(microphones)
    if channels == 1:
        return rng.standard_normal((1, samples), dtype=np.float32)
    apart = np.linalg.norm(microphones[:, None] - microphones[None], axis=2)
    frequencies = np.fft.rfftfreq(FFT, 1.0 / SAMPLING_RATE)
    coherence = np.sinc(2.0 * frequencies[:, None, None] * apart / SPEED_OF_SOUND)
    # At 0 Hz all channels are one: the matrix has no Cholesky factor, but a square root.
    values, vectors = np.linalg.eigh(coherence)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :] @ vectors.transpose(0, 2, 1)
    white = rng.standard_normal((channels, samples + FFT))
    _, _, spectra = stft(white, nperseg=FFT)
    together = roots @ spectra.transpose(1, 0, 2)
    _, mixed = istft(together.transpose(1, 0, 2), nperseg=FFT)
    return np.asarray(mixed[:, FFT // 2 : FFT // 2 + samples], dtype=np.float32)


def early_part(response: npt.NDArray[np.float32], seconds: float) -> npt.NDArray[np.float32]:
    """A response (samples,) with nothing later than so many seconds after its direct sound."""
    last = int(np.abs(response).argmax()) + round(seconds * SAMPLING_RATE)
    early: npt.NDArray[np.float32] = np.array(response)
    early[last + 1 :] = 0.0
    return early


def _images(size: float, reflection: float, source: float, longest: float) -> tuple[Floats, Floats]:
    """Positions and strengths of the images along one axis."""
    most = math.ceil(longest / (2.0 * size)) + 1
    rooms = np.arange(-most, most + 1)
    positions = np.concatenate([2.0 * rooms * size + source, 2.0 * rooms * size - source])
    bounces = np.concatenate([2 * np.abs(rooms), np.abs(rooms) + np.abs(rooms - 1)])
    return positions, np.power(reflection, bounces.astype(np.float64))


@functools.cache
def _kernel() -> Floats:
    time = np.arange(-REACH * FINER, REACH * FINER + 1) / FINER
    return np.asarray(np.sinc(time) * np.cos(np.pi * time / (2.0 * REACH)) ** 2, dtype=np.float64)


@functools.cache
def _directions() -> Floats:
    """(1024, 3) directions that are spread evenly over an eighth of the sphere."""
    heights = (np.arange(32) + 0.5) / 32
    turns = np.pi / 2.0 * (np.arange(32) + 0.5) / 32
    height, turn = (grid.ravel() for grid in np.meshgrid(heights, turns))
    level = np.sqrt(1.0 - height**2)
    return np.stack([level * np.cos(turn), level * np.sin(turn), height], axis=1)


@functools.cache
def _high_pass() -> Floats:
    return np.asarray(butter(2, HIGH_PASS, "highpass", fs=SAMPLING_RATE, output="sos"))


def _to_the_wall(start: Floats, direction: Floats, size: Floats) -> float:
    """Metres from `start` along a horizontal direction to the margin before the walls."""
    room = np.where(direction > 0, size - MARGIN - start, start - MARGIN)
    return float(np.min(room / np.maximum(np.abs(direction), 1e-9)))

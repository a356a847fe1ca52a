"""Continuous separation: windows, stitching, beamforming, activity, the pipeline over all."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unispeech.data.config import RoomConfig
from unispeech.data.rooms import diffuse_noise, draw_room
from unispeech.models.stft import Stft
from unispeech.score.separation import si_sdr
from unispeech.separate.activity import active_pieces
from unispeech.separate.alone import alone, leave_alone
from unispeech.separate.beamforming import covariance_weights, mvdr, mvdr_filters
from unispeech.separate.pipeline import OracleMasks, Settings, separate
from unispeech.separate.windows import Grid, Plan, windows

STFT = Stft(400, 512, 160)
SHORT = Plan(50, 20, 15)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reader(audio: torch.Tensor):
    """Samples of a recording `(C, n)`; nobody may ask for what is not there."""

    def read(start: int, stop: int) -> torch.Tensor:
        assert 0 <= start <= stop <= audio.shape[-1]
        return audio[:, start:stop]

    return read


def run(audio: torch.Tensor, estimate, **settings: object) -> torch.Tensor:
    """Streams `(2, n)`."""
    parts = separate(reader(audio), audio.shape[1], STFT, estimate, 2, Settings(**settings))
    return torch.cat([part.audio for part in parts], 1)


def constant(spans, waves: torch.Tensor) -> torch.Tensor:
    """Everything is the first speaker."""
    masks = torch.zeros(len(waves), 3, STFT.frames(waves.shape[1]), STFT.bins)
    masks[:, 0] = 1
    return masks


def known(masks: torch.Tensor, shuffle: int | None = None):
    """Gives the known masks of each window `(K, T, bins)`, speakers shuffled."""
    rng = np.random.default_rng(shuffle)

    def estimate(spans, waves: torch.Tensor) -> torch.Tensor:
        found = []
        for start, stop in spans:
            first = (start + STFT.margin) // STFT.hop
            own = masks[:, first : first + STFT.frames(stop - start)]
            is_swapped = shuffle is not None and rng.integers(2)
            found.append(own[[1, 0, 2]] if is_swapped else own)
        return torch.stack(found)

    return estimate


def test_papers_windows_are_2_4_seconds() -> None:
    assert Plan.of_seconds(STFT, 16000, 1.2, 0.8, 0.4) == Plan() == (238, 120, 80)


plans = st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 9)).map(
    lambda sizes: Plan(sum(sizes), sizes[0], sizes[1])
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 120), plans)
def test_kept_frames_make_up_the_recording(frames: int, plan: Plan) -> None:
    kept = []
    every = list(windows(frames, plan))
    for number, window in enumerate(every):
        assert window.stop - window.start == min(plan.size, frames)
        assert 0 <= window.start <= window.first < window.last <= window.stop <= frames
        if 0 < number < len(every) - 1:
            assert window.first - window.start == plan.history
            assert window.last - window.first == plan.hop
        kept += range(window.first, window.last)
    assert kept == list(range(frames))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30_000), st.sampled_from([Plan(), SHORT, None]), st.integers(1, 5))
def test_masks_of_one_give_the_recording(samples: int, plan: Plan | None, batch: int) -> None:
    audio = noise(1, samples, seed=samples)
    streams = run(audio, constant, plan=plan, batch=batch)
    assert streams.shape == (2, samples)
    torch.testing.assert_close(streams[0], audio[0], atol=1e-6, rtol=0)
    assert not streams[1].abs().any()


def test_grid_has_every_sample_in_as_many_frames() -> None:
    for samples in (1, 159, 160, 161, 4000):
        grid = Grid(STFT, samples)
        start, stop = grid.span(0, grid.frames)
        counts = np.zeros(stop - start, int)
        for frame in range(grid.frames):
            counts[frame * 160 : frame * 160 + 400] += 1
        inside = counts[-start : -start + samples]
        phase = (np.arange(samples) - start) % 160
        assert (inside == np.where(phase < 80, 3, 2)).all()


def two_talkers(seed: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sources in bands of their own, both active throughout, and the masks of both."""
    rng = np.random.default_rng(seed)
    sources = []
    for band in ([300, 1500], [2500, 5000]):
        sos = scipy.signal.butter(6, band, "bandpass", fs=16000, output="sos")
        sources.append(scipy.signal.sosfilt(sos, rng.standard_normal(samples)))
    parts = torch.from_numpy(np.stack([*sources, 0.001 * rng.standard_normal(samples)])).float()
    read = reader(parts)
    grid = Grid(STFT, samples)
    oracle = OracleMasks(STFT, read, samples)
    span = grid.span(0, grid.frames)
    return parts, oracle([span], torch.zeros(1, span[1] - span[0]))[0]


@pytest.mark.parametrize("distance", ["magnitude", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_stitching_keeps_each_speaker_on_a_stream(distance: str, seed: int) -> None:
    parts, masks = two_talkers(seed, 24_000)
    mixture = parts.sum(0, keepdim=True)
    whole = run(mixture, known(masks), plan=None)
    found = run(mixture, known(masks, seed), plan=SHORT, distance=distance, batch=3)
    # Only the first window may choose.
    first = np.random.default_rng(seed).integers(2)
    torch.testing.assert_close(found, whole.flip(0) if first else whole, atol=1e-6, rtol=0)
    assert float(si_sdr(whole[0], parts[0])) > 20


def test_stitching_goes_on_through_a_speaker_who_is_silent() -> None:
    """As long as one of both is there in the overlap, the order is known."""
    parts, _ = two_talkers(9, 32_000)
    parts[0, 12_000:20_000] = 0
    grid = Grid(STFT, 32_000)
    span = grid.span(0, grid.frames)
    masks = OracleMasks(STFT, reader(parts), 32_000)([span], torch.zeros(1, span[1] - span[0]))[0]
    mixture = parts.sum(0, keepdim=True)
    whole = run(mixture, known(masks), plan=None)
    found = run(mixture, known(masks, 3), plan=SHORT)
    first = np.random.default_rng(3).integers(2)
    torch.testing.assert_close(found, whole.flip(0) if first else whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["mask", "mvdr"])
def test_known_masks_make_continuous_and_whole_equal(method: str) -> None:
    parts, masks = two_talkers(5, 30_001)
    delayed = torch.stack([parts.sum(0), parts[0].roll(3) + parts[1].roll(-2) + parts[2]])
    oracle = OracleMasks(STFT, reader(parts), 30_001)
    whole = run(delayed, oracle, plan=None, method=method)
    for plan in (Plan(), SHORT):
        found = run(delayed, oracle, plan=plan, method=method)
        torch.testing.assert_close(found, whole, atol=2e-6, rtol=0)
    torch.testing.assert_close(run(delayed, known(masks), method=method), whole)


class Scene:
    """Two moving voices and noise at the seven channels of an array in a room."""

    def __init__(self, seed: int, samples: int = 48_000) -> None:
        rng = np.random.default_rng(seed)
        room = draw_room(RoomConfig(t60=(0.15, 0.3)), 2, 7, rng)
        self.sources = []
        for number, responses in enumerate(room.responses()):
            steps = rng.standard_normal(samples // 800).cumsum()
            pitch = np.repeat(120 + 90 * number + 8 * steps, 800)
            voice = scipy.signal.sawtooth(2 * np.pi * pitch.cumsum() / 16000)
            envelope = np.repeat(rng.random(samples // 1600) > 0.4, 1600)
            voice = (voice + 0.3 * rng.standard_normal(samples)) * envelope
            heard = np.stack([scipy.signal.fftconvolve(voice, r)[:samples] for r in responses])
            self.sources.append(0.05 * heard / heard[0].std())
        self.noise = 0.01 * diffuse_noise(room.microphones, samples, rng)
        self.mixture = sum(self.sources) + self.noise

    def ratios(self, spectra: list[np.ndarray]) -> np.ndarray:
        sizes = np.abs(np.stack(spectra))
        return sizes / sizes.sum(0).clip(1e-12)


def sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    inner = slice(800, len(estimate) - 800)
    wanted, error = reference[inner], estimate[inner] - reference[inner]
    return float(10 * np.log10((wanted**2).sum() / (error**2).sum()))


def independent_mvdr(scene: Scene, kind: str) -> list[np.ndarray]:
    """Frequency by frequency in scipy's transform, with explicit inverses and no loading."""
    shape = {"fs": 16000, "window": "hann", "nperseg": 400, "noverlap": 240, "nfft": 512}
    mixture = scipy.signal.stft(scene.mixture, **shape)[2]
    parts = [scipy.signal.stft(part[0], **shape)[2] for part in (*scene.sources, scene.noise)]
    ratios = scene.ratios(parts)
    if kind == "winner":
        ratios = (ratios == ratios.max(0)).astype(float)
    streams = []
    for own in range(2):
        stream = np.zeros_like(mixture[0])
        for bin_ in range(mixture.shape[1]):
            heard = mixture[:, bin_]
            speech, *rests = (
                (weight * heard) @ heard.conj().T
                for weight in (ratios[own, bin_], ratios[1 - own, bin_], ratios[2, bin_])
            )
            rest = sum(rests) + 1e-15 * np.eye(7)
            product = np.linalg.inv(rest) @ speech
            stream[bin_] = (product[:, 0] / np.trace(product)).conj() @ heard
        streams.append(scipy.signal.istft(stream, **shape)[1][: scene.mixture.shape[1]])
    return streams


@pytest.mark.parametrize(("seed", "kind"), [(0, "winner"), (3, "winner"), (1, "ratio")])
def test_mvdr_gains_what_an_independent_one_gains(seed: int, kind: str) -> None:
    scene = Scene(seed, 24_000)
    parts = torch.from_numpy(np.stack([part[0] for part in (*scene.sources, scene.noise)])).float()
    mixture = torch.from_numpy(scene.mixture).float()
    oracle = OracleMasks(STFT, reader(parts), mixture.shape[1])
    ours = run(mixture, oracle, method="mvdr").double().numpy()
    theirs = independent_mvdr(scene, kind)
    gains = [
        [sdr(streams[i], part[0]) - sdr(scene.mixture[0], part[0]) for streams in (ours, theirs)]
        for i, part in enumerate(scene.sources)
    ]
    mean = np.mean(gains, axis=0)
    assert mean[0] > 3
    assert mean[0] >= mean[1] - 0.1


def test_filters_are_the_closed_form_of_one_direction() -> None:
    """`w = C^-1 d / (d^H C^-1 d)` where the speaker is one plane wave; the reference is kept."""
    rng = np.random.default_rng(2)
    frames, channels = 400, 4
    steering = np.exp(2j * np.pi * rng.random(channels)) * rng.uniform(0.5, 1.5, channels)
    steering /= steering[0]
    is_speech = np.arange(frames) % 2 == 0
    shape = (channels, frames)
    hiss = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    signal = rng.standard_normal(frames) + 1j * rng.standard_normal(frames)
    heard = np.where(is_speech, steering[:, None] * signal, hiss)
    weights = np.stack([is_speech, np.zeros(frames), ~is_speech])[:, :, None]
    weights = torch.from_numpy(weights.astype(float)).clamp(min=1e-10)
    found = mvdr_filters(torch.from_numpy(heard)[:, :, None], weights)[0, 0].numpy()
    covariance = hiss[:, ~is_speech] @ hiss[:, ~is_speech].conj().T
    solved = np.linalg.inv(covariance) @ steering
    expected = solved / (steering.conj() @ solved)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found.conj() @ steering, 1.0, atol=1e-4)


def test_silence_and_absent_speakers_do_not_break_the_beamformer() -> None:
    masks = torch.rand(3, 30, 5, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(mvdr(torch.zeros(7, 30, 5, dtype=torch.complex64), masks, 2)).all()
    heard = torch.complex(noise(7, 30, 5), noise(7, 30, 5, seed=1))
    masks[1] = 0
    weights = covariance_weights(masks, 2)
    assert float(weights[1].max()) <= 1e-9
    streams = mvdr(heard, masks, 2)
    assert torch.isfinite(streams).all()
    torch.testing.assert_close(streams[1], torch.zeros(30, 5, dtype=torch.complex64))


def test_blocks_of_the_beamformer_do_not_depend_on_the_windows() -> None:
    parts, masks = two_talkers(6, 40_000)
    array = torch.stack([parts.sum(0), parts[0].roll(2) + parts[1] + parts[2].roll(5)])
    blocks = {"method": "mvdr", "beam": 60, "beam_context": 25}
    plans = (Plan(), SHORT, Plan(90, 10, 70))
    one, *others = (run(array, known(masks), plan=plan, **blocks) for plan in plans)
    for other in others:
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert one.shape == (2, 40_000)


def test_who_speaks_alone_is_not_touched() -> None:
    """The mixture itself, noise included, where one speaks; the masks where both do."""
    parts, _ = two_talkers(8, 48_000)
    parts[1, :24_000] = 0
    oracle = OracleMasks(STFT, reader(parts), 48_000)
    mixture = parts.sum(0, keepdim=True)
    masked = run(mixture, oracle)
    found = run(mixture, oracle, alone=0.1)
    before, after = slice(0, 24_000 - 4800), slice(24_000 + 4800, None)
    torch.testing.assert_close(found[0, before], mixture[0, before], atol=1e-6, rtol=0)
    assert float(found[1, before].abs().max()) < 1e-6
    assert float((masked - found)[0, before].abs().max()) > 1e-4
    torch.testing.assert_close(found[:, after], masked[:, after], atol=1e-6, rtol=0)
    # Windows see as far as the judgement does.
    torch.testing.assert_close(run(mixture, oracle, alone=0.1, plan=None), found)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_gates_take_from_one_stream_what_they_give_the_other(seed: int, least: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, 60, 4, generator=rng) * torch.rand(2, 1, 1, generator=rng).square()
    masks = masks / masks.sum(0).clamp(min=1)
    magnitude = torch.rand(60, 4, generator=rng)
    gates = alone(masks, magnitude, least, 5)
    assert float(gates.min()) >= 0
    assert float(gates.sum(0).max()) <= 1
    found = leave_alone(masks, gates)
    assert float(found.min()) >= 0
    assert float(found.sum(0).max()) <= 1 + 1e-5
    if least == 0:
        assert torch.equal(found, masks)


def test_active_pieces() -> None:
    share, power = np.zeros((2, 1000)), np.full((2, 1000), 1e-3)
    share[0, 100:200] = share[0, 220:300] = 0.9
    share[1, 500:600] = 0.4
    share[1, 800:900] = 0.9
    power[1, 800:900] = 1e-9
    first, second = active_pieces(share, power, 0.01)
    # A gap of 0.2 s is closed; 0.1 s are added on both sides; what is very quiet is nothing.
    assert first == [(90, 310)]
    assert second == [(490, 610)]
    assert active_pieces(share, power, 0.01, threshold=0.5)[1] == []
    assert active_pieces(np.zeros((2, 50)), np.zeros((2, 50)), 0.01) == [[], []]

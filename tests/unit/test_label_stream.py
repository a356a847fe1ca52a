"""Labels found on a device and clusters by faiss, against NumPy, scikit-learn and one by one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from packages import require
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from unispeech.__main__ import main
from unispeech.data import features as features_module
from unispeech.data.clustering import fit_kmeans, nearest_centroid, nearest_on_device
from unispeech.data.config import KMeansConfig, LabelConfig
from unispeech.data.features import LayerExtractor, MfccExtractor
from unispeech.data.labelling import label_cuts, read_ahead
from unispeech.data.manifests import load_cuts, read_audio
from unispeech.data.mfcc import mfcc39
from unispeech.errors import DataError, DependencyError
from unispeech.models.config import ConvLayer, EncoderConfig
from unispeech.models.encoder import Encoder

CHUNK, WINDOW, SMALLEST = 4000, 9000, 400


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 40),
    st.integers(1, 6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_on_a_device_as_in_numpy(seed, clusters, width, dtype) -> None:
    """Small whole numbers are exact in every precision, and tie often."""
    rng = np.random.default_rng(seed)
    states = rng.integers(-3, 4, (2, 9, width)).astype(np.float32)
    centroids = rng.integers(-3, 4, (clusters, width)).astype(np.float32)
    found = nearest_on_device(torch.from_numpy(states).to(dtype), torch.from_numpy(centroids))
    assert found.dtype == torch.int32
    distance = np.square(states[:, :, None] - centroids).sum(-1)
    np.testing.assert_array_equal(found, distance.argmin(-1))
    for row, labels in zip(states, found, strict=True):
        np.testing.assert_array_equal(nearest_centroid(row, centroids), labels)


def test_distances_are_single_precision_whatever_surrounds_them() -> None:
    states, centroids = torch.tensor([[1.0]]), torch.tensor([[1.004], [1.0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest_on_device(states, centroids).tolist() == [1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_frames_that_are_not_between_two_clusters_get_numpys_label(seed) -> None:
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((300, 64)).astype(np.float32)
    centroids = rng.standard_normal((50, 64)).astype(np.float32)
    found = nearest_on_device(torch.from_numpy(states), torch.from_numpy(centroids)).numpy()
    differences = states[:, None].astype(np.float64) - centroids
    first, second = np.sort(np.square(differences).sum(-1), 1)[:, :2].T
    is_clear = second - first > 1e-3
    assert is_clear.mean() > 0.95
    expected = nearest_centroid(states, centroids)
    np.testing.assert_array_equal(found[is_clear], expected[is_clear])


@pytest.fixture(params=[False, True], ids=["post-norm", "pre-norm"])
def encoder(request) -> Encoder:
    torch.manual_seed(0)
    layers = [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2]
    config = EncoderConfig(
        conv_layers=tuple(ConvLayer(channels=c, kernel=k, stride=s) for c, k, s in layers),
        extractor_norm="layer" if request.param else "group",
        norm_first=request.param,
        normalize=request.param,
        layers=2,
        dim=16,
        ffn_dim=32,
        heads=2,
        pos_conv_kernel=8,
        pos_conv_groups=4,
    )
    return Encoder(config).eval()


@pytest.fixture
def short_chunks(monkeypatch) -> None:
    monkeypatch.setattr(features_module, "CHUNK_SAMPLES", CHUNK)
    monkeypatch.setattr(features_module, "WINDOW_SAMPLES", WINDOW)


def recordings() -> list[np.ndarray]:
    """Ragged ones, one of several chunks, one whose last chunk has no frame, some too short."""
    rng = np.random.default_rng(0)
    sizes = [1200, 399, 2 * CHUNK + 500, CHUNK - 1, CHUNK + 100, 400, 0]
    sizes += rng.integers(400, 3000, 12).tolist()
    return [0.1 * rng.standard_normal(n).astype(np.float32) for n in sizes]


def one_by_one(encoder: Encoder, layer: int, waveform: np.ndarray) -> np.ndarray:
    chunks = [waveform[i : i + CHUNK] for i in range(0, len(waveform), CHUNK)]
    with torch.no_grad():
        states = [
            encoder(torch.from_numpy(chunk)[None]).layers[layer][0].numpy()
            for chunk in chunks
            if len(chunk) >= SMALLEST
        ]
    return np.concatenate([np.zeros((0, 16), np.float32), *states])


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_stream_is_its_recordings_one_by_one(
    layer, is_plain, encoder, short_chunks, monkeypatch
) -> None:
    """Whether a batch is packed or padded, as it is on a GPU."""
    monkeypatch.setenv("UNISPEECH_PLAIN", str(int(is_plain)))
    extractor = LayerExtractor(encoder, layer)
    expected = [one_by_one(encoder, layer, waveform) for waveform in recordings()]
    found = list(extractor.features(iter(recordings())))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=2e-5)
    # Frames as centroids: a frame is nearest to itself.
    centroids = np.concatenate(expected)
    labels = list(extractor.labels(iter(recordings()), centroids))
    assert {row.dtype for row in labels} == {np.dtype(np.uint16)}
    assert [len(row) for row in labels] == [len(row) for row in expected]
    np.testing.assert_array_equal(np.concatenate(labels), np.arange(len(centroids)))


def test_no_batch_is_larger_than_a_chunk(encoder, short_chunks, monkeypatch) -> None:
    shapes = []
    real = encoder.forward

    def forward(waveforms: torch.Tensor, *args: object, **options: object) -> object:
        shapes.append(tuple(waveforms.shape))
        return real(waveforms, *args, **options)

    monkeypatch.setattr(encoder, "forward", forward)
    list(LayerExtractor(encoder, 1).features(recordings()))
    assert max(rows * samples for rows, samples in shapes) <= CHUNK
    assert len(shapes) < len(recordings())


def test_a_window_is_begun_before_the_one_before_it_is_handed_on(encoder, short_chunks) -> None:
    """And no more than these two are read."""
    read = 0

    def waveforms() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in range(40):
            read += 1
            yield np.zeros(WINDOW // 3, np.float32)

    for number, _ in enumerate(LayerExtractor(encoder, 1).features(waveforms())):
        assert read == min(3 * (number // 3 + 2), 40)


def test_reading_ahead_keeps_the_order(shared_corpus, tmp_path) -> None:
    cuts = list(load_cuts(shared_corpus.train))
    for cut, audio in zip(cuts, read_ahead(iter(cuts)), strict=True):
        np.testing.assert_array_equal(audio, read_audio(cut))
    centroids = np.random.default_rng(0).standard_normal((7, 39)).astype(np.float32)
    found = list(label_cuts(iter(cuts), MfccExtractor(cmvn=False), centroids))
    assert [cut.id for cut, _ in found] == [cut.id for cut in cuts]
    for cut, labels in found:
        np.testing.assert_array_equal(labels, nearest_centroid(mfcc39(read_audio(cut)), centroids))
    broken = tmp_path / "broken.flac"
    broken.write_bytes(b"no audio")
    cuts[5].recording.sources[0].source = str(broken)
    with pytest.raises(DataError, match=f"utterance {cuts[5].id}"):
        list(read_ahead(cuts))


def test_faiss_finds_the_blobs_that_scikit_learn_finds() -> None:
    require("faiss")
    points, truth = make_blobs(3000, 5, centers=6, cluster_std=0.3, random_state=1)
    points = points.astype(np.float32)
    partitions = []
    for config in (KMeansConfig(clusters=6), KMeansConfig(clusters=6, engine="faiss")):
        centroids, inertia = fit_kmeans(points, config)
        assert (centroids.shape, centroids.dtype) == ((6, 5), np.float32)
        partitions.append(nearest_centroid(points, centroids))
        distances = np.square(points[:, None].astype(np.float64) - centroids).sum(-1)
        assert inertia == pytest.approx(distances.min(1).mean(), rel=1e-4)
    assert adjusted_rand_score(*partitions) == 1.0
    assert adjusted_rand_score(truth, partitions[1]) == 1.0


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_faiss_clusters_frames_as_well(init, shared_corpus) -> None:
    require("faiss")
    cuts = list(load_cuts(shared_corpus.train))
    frames = np.concatenate([mfcc39(read_audio(cut)) for cut in cuts])
    config = KMeansConfig(engine="faiss", clusters=20, max_iter=50, init=init)
    centroids, inertia = fit_kmeans(frames, config)
    peer = MiniBatchKMeans(20, batch_size=10000, n_init=20, random_state=0).fit(frames)
    assert inertia < 1.03 * peer.inertia_ / len(frames)
    again, _ = fit_kmeans(frames, config)
    np.testing.assert_array_equal(again, centroids)
    other, _ = fit_kmeans(frames, config.model_copy(update={"seed": 1}))
    assert not np.array_equal(other, centroids)


def test_faiss_through_the_command(shared_corpus, tmp_path, capsys) -> None:
    require("faiss")
    arguments = ["label", "--manifests", str(shared_corpus.train), "--output", str(tmp_path)]
    arguments += ["share=1.0", "kmeans.clusters=5", "kmeans.engine=faiss"]
    assert main(arguments) == 0
    labels = np.load(tmp_path / "train.npy")
    assert set(labels) == set(range(5))
    assert main([*arguments, "kmeans.n_init=3", "kmeans.tol=0.1"]) == 78
    assert "engine faiss has no tol, n_init" in capsys.readouterr().err


def test_without_faiss_nothing_is_read(shared_corpus, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DependencyError, match="needs faiss"):
        fit_kmeans(np.zeros((200, 2), np.float32), KMeansConfig(engine="faiss"))
    arguments = ["label", "--manifests", str(shared_corpus.train), "--output", str(tmp_path)]
    assert main([*arguments, "kmeans.engine=faiss"]) == 69
    out, error = capsys.readouterr()
    assert "clustering" not in out
    assert error.count("\n") == 1


def test_the_default_engine_leaves_the_checksum_of_labels(shared_corpus, tmp_path) -> None:
    arguments = ["label", "--manifests", str(shared_corpus.train), "--output", str(tmp_path)]
    assert main([*arguments, "kmeans.clusters=3", "kmeans.n_init=1"]) == 0
    expected = LabelConfig().model_dump(mode="json")
    del expected["kmeans"]["engine"]
    expected["kmeans"] |= {"clusters": 3, "n_init": 1}
    text = yaml.safe_dump(expected, sort_keys=False)
    origin = json.loads((tmp_path / "labels.json").read_text())["origin"]
    assert origin["config"] == hashlib.sha256(text.encode()).hexdigest()

"""Clustering against scikit-learn, label quality against closed forms, storage, streaming."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import mutual_info_score

from unispeech.__main__ import main
from unispeech.data.alignments import Alignment
from unispeech.data.clustering import fit_kmeans, nearest_centroid
from unispeech.data.config import KMeansConfig
from unispeech.data.labels import LabelStore, label_quality
from unispeech.data.manifests import load_cuts, read_audio
from unispeech.data.mfcc import mfcc39
from unispeech.errors import DataError
from unispeech.hub.load import load_model


def test_settings_are_simple_kmeans() -> None:
    features = np.random.default_rng(0).standard_normal((500, 5)).astype(np.float32)
    centroids, inertia = fit_kmeans(features, KMeansConfig(clusters=4))
    peer = MiniBatchKMeans(
        4,
        init="k-means++",
        max_iter=100,
        batch_size=10000,
        tol=0.0,
        max_no_improvement=100,
        n_init=20,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=0,
    ).fit(features)
    np.testing.assert_allclose(centroids, peer.cluster_centers_, rtol=1e-5)
    assert inertia == pytest.approx(-peer.score(features) / 500, rel=1e-5)
    labels = nearest_centroid(features, centroids)
    np.testing.assert_array_equal(labels, peer.predict(features))


def test_ties_take_the_lowest_cluster() -> None:
    centroids = np.array([[1.0], [-1.0], [1.0]], dtype=np.float32)
    assert nearest_centroid(np.array([[0.0], [5.0]], np.float32), centroids).tolist() == [0, 0]


def test_too_few_frames() -> None:
    with pytest.raises(DataError, match="at least 100, found 7"):
        fit_kmeans(np.zeros((7, 39), np.float32), KMeansConfig())


def test_quality_of_perfect_and_useless_labels() -> None:
    phones = [0, 0, 1, 1, 2, 2, -1]
    perfect = label_quality([(np.array([5, 5, 3, 3, 9, 9, 1], np.uint16), phones)])
    assert (perfect["phone_purity"], perfect["cluster_purity"]) == (1.0, 1.0)
    assert perfect["pnmi"] == pytest.approx(1.0)
    assert (perfect["phones"], perfect["frames"]) == (3, 6)
    useless = label_quality([(np.zeros(7, np.uint16), phones)])
    assert useless["phone_purity"] == pytest.approx(1 / 3)
    assert useless["pnmi"] == pytest.approx(0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=60))
def test_pnmi_is_mutual_information_over_entropy(pairs) -> None:
    labels, phones = (np.array(column) for column in zip(*pairs, strict=True))
    quality = label_quality([(labels.astype(np.uint16), phones)])
    entropy = mutual_info_score(phones, phones)
    expected = mutual_info_score(phones, labels) / entropy if entropy > 0 else 0.0
    assert quality["pnmi"] == pytest.approx(expected, abs=1e-9)


def test_unaligned_gives_nothing() -> None:
    assert label_quality([(np.zeros(3, np.uint16), [-1, -1, -1])]) == {}


def test_ctm(tmp_path) -> None:
    path = tmp_path / "a.ctm"
    path.write_text(";; comment\nu1 1 0.00 0.02 a\nu1 1 0.02 0.03 b\n")
    alignment = Alignment(path)
    assert "u1" in alignment
    assert alignment.frames("u1", 7, 100).tolist() == [0, 0, 1, 1, 1, -1, -1]
    path.write_text("u1 1 zero 0.1 a\n")
    with pytest.raises(DataError, match="a.ctm:1"):
        Alignment(path)


def test_label_command_stores_rate_origin_and_quality(corpus, tmp_path, capsys) -> None:
    ctm = tmp_path / "phones.ctm"
    cuts = list(load_cuts(corpus.train))
    lines = [f"{c.id} 1 0 {c.duration / 2} x\n{c.id} 1 {c.duration / 2} 1 y\n" for c in cuts]
    ctm.write_text("".join(lines))
    arguments = ["label", "--manifests", str(corpus.train), str(corpus.valid)]
    arguments += ["--output", str(tmp_path / "l"), "--alignment", str(ctm)]
    overrides = ["share=1.0", "kmeans.clusters=5", "kmeans.n_init=1"]
    assert main([*arguments, *overrides]) == 0
    description = json.loads((tmp_path / "l/labels.json").read_text())
    assert description["rate"] == 100
    assert description["clusters"] == 5
    assert 0.4 < description["quality"]["phone_purity"] <= 1
    store = LabelStore(tmp_path / "l", ["train", "valid"])
    centroids = np.load(tmp_path / "l/kmeans.npy")
    for cut in cuts[:3]:
        expected = nearest_centroid(mfcc39(read_audio(cut)), centroids)
        np.testing.assert_array_equal(store.get(cut.id), expected)
    capsys.readouterr()
    assert main([*arguments, *overrides]) == 0
    assert "skipped" in capsys.readouterr().out
    assert main([*arguments, *overrides, "kmeans.clusters=6"]) == 0
    assert json.loads((tmp_path / "l/labels.json").read_text())["clusters"] == 6


def test_labels_of_our_own_layer(corpus, tmp_path) -> None:
    options = ["--config", str(corpus.pretrain), "--output", str(tmp_path / "run")]
    overrides = [*corpus.overrides(), "train.updates=1"]
    assert main(["pretrain", *options, *overrides]) == 0
    arguments = ["label", "--manifests", str(corpus.train), "--output", str(tmp_path / "l2")]
    layer = ["feature=layer", "layer=2", f"checkpoint={tmp_path / 'run'}"]
    assert main([*arguments, *layer, "share=1.0", "kmeans.clusters=4", "kmeans.n_init=1"]) == 0
    store = LabelStore(tmp_path / "l2", ["train"])
    assert store.rate == 50
    cut = next(iter(load_cuts(corpus.train)))
    states = load_model(tmp_path / "run")(torch.from_numpy(read_audio(cut))[None])
    centroids = np.load(tmp_path / "l2/kmeans.npy")
    distance = np.square(states.layers[2][0].detach().numpy()[:, None] - centroids).sum(2)
    np.testing.assert_array_equal(store.get(cut.id), distance.argmin(1))
    assert main([*arguments, *layer, "layer=3"]) == 78

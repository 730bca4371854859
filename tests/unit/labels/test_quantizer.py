"""Labels of frames: the nearest centroid, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.labels.quantizer import Quantizer


def brute_force(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    distances = ((features.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]) ** 2).sum(-1)
    return distances.argmin(1)


@pytest.mark.parametrize("dim", [1, 39, 256])
def test_labels_are_the_nearest_centroids(dim: int) -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((3000, dim)) * 3 + 50).astype(np.float32)
    centroids = (rng.standard_normal((37, dim)) * 3 + 50).astype(np.float32)
    np.testing.assert_array_equal(Quantizer(centroids)(features), brute_force(features, centroids))


def test_labels_are_the_same_whatever_the_batch() -> None:
    rng = np.random.default_rng(1)
    centroids = rng.standard_normal((64, 24)).astype(np.float32)
    # frames next to the border between two centroids, where rounding would decide
    pairs = rng.integers(64, size=(4000, 2))
    middle = (centroids[pairs[:, 0]] + centroids[pairs[:, 1]]) / 2
    features = (middle + 1e-7 * rng.standard_normal(middle.shape)).astype(np.float32)
    assign = Quantizer(centroids)
    whole = assign(features)
    for size in (1, 3, 1000):
        parts = [assign(features[start : start + size]) for start in range(0, len(features), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_ties_go_to_the_lowest_number() -> None:
    centroids = np.array([[1.0], [-1.0], [1.0]], dtype=np.float32)
    assert Quantizer(centroids)(np.array([[1.0], [0.0], [-1.0]], dtype=np.float32)).tolist() == [0, 0, 1]


def test_a_single_centroid_labels_every_frame_and_no_frames_have_no_labels() -> None:
    assert Quantizer(np.zeros((1, 2), dtype=np.float32))(np.ones((3, 2))).tolist() == [0, 0, 0]
    assert Quantizer(np.zeros((4, 2), dtype=np.float32))(np.zeros((0, 2))).shape == (0,)


def test_features_that_do_not_fit_are_refused() -> None:
    assign = Quantizer(np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(TargetError, match=r"\(5, 3\), wanted \(T, 2\)"):
        assign(np.zeros((5, 3)))
    with pytest.raises(TargetError, match="frame 1 holds NaN"):
        assign(np.array([[0.0, 0.0], [np.nan, 0.0]]))

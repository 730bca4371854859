"""Samples of a stream, k-means and the files of a codebook."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.labels import kmeans
from fairseq_mtssl.labels.kmeans import Codebook, FrameSample, learn, learn_torch


def blobs(rows: int = 600, clusters: int = 6, dim: int = 3, seed: int = 0) -> torch.Tensor:
    """Well separated clusters on a line, in random order."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.arange(clusters)[:, None] * np.ones(dim)
    found = centres[rng.integers(clusters, size=rows)] + rng.standard_normal((rows, dim))
    return torch.from_numpy(found.astype(np.float32))


def inertia(rows: torch.Tensor, centroids: np.ndarray) -> float:
    return float(torch.cdist(rows.double(), torch.from_numpy(centroids).double()).pow(2).min(1)[0].mean())


@pytest.mark.parametrize("backend", ["torch", "sklearn"])
def test_separated_clusters_are_found(backend: str) -> None:
    rows = blobs()
    centroids, fit = learn(rows, 6, seed=0, backend=backend)
    assert sorted(np.round(centroids.mean(1) / 10).astype(int).tolist()) == [0, 1, 2, 3, 4, 5]
    assert fit["inertia"] == pytest.approx(inertia(rows, centroids), rel=1e-4)
    assert fit["backend"] == backend and fit["frames"] == 600


def test_inertia_is_near_sklearns_and_never_rises() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((5000, 8)).astype(np.float32))
    history: list[float] = []
    centroids = learn_torch(rows, 20, seed=0, on_update=lambda _, value: history.append(value))
    theirs, _ = learn(rows, 20, seed=0, backend="sklearn")
    assert history == sorted(history, reverse=True)
    # rows without any clusters have many optima: within 3 % of sklearn's, which runs to convergence
    assert inertia(rows, centroids) < 1.03 * inertia(rows, theirs)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    rows = blobs(clusters=50)
    first, again, other = (learn_torch(rows, 6, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_an_empty_cluster_moves_to_the_farthest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor([[0.0], [1.0], [10.0], [30.0]])
    # the second centroid has no row; the farthest row, 30, is 25 from its own
    updated, _ = kmeans._lloyd(rows, torch.tensor([[0.5], [100.0], [5.0]]))
    assert updated.ravel().tolist() == [0.5, 30.0, 20.0]


def test_fewer_distinct_rows_than_clusters_still_give_finite_centroids() -> None:
    centroids = learn_torch(torch.ones(50, 2), 4, seed=0)
    assert centroids.shape == (4, 2) and np.isfinite(centroids).all()


def test_fewer_rows_than_clusters_are_refused() -> None:
    with pytest.raises(ConfigError, match="7 clusters of 6 frames"):
        learn(torch.zeros(6, 2), 7, seed=0, backend="torch")


def test_nan_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="NaN or infinity"):
        learn(torch.full((6, 2), torch.nan), 2, seed=0, backend="torch")


@pytest.mark.parametrize("error", [ImportError("no faiss"), OSError("no CUDA"), RuntimeError("no driver")])
def test_without_faiss_torch_takes_over_and_says_so(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "faiss":
                raise error

    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    _, fit = learn(blobs(), 3, seed=0)
    assert fit["backend"] == "torch"
    assert f"faiss cannot be imported ({error}): k-means runs on torch instead" in caplog.text
    with pytest.raises(ConfigError, match="install the extra faiss"):
        learn(blobs(), 3, seed=0, backend="faiss")


def test_faiss_is_taken_where_it_is_and_finds_the_clusters() -> None:
    pytest.importorskip("faiss")
    centroids, fit = learn(blobs(), 6, seed=0)
    assert fit["backend"] == "faiss"
    assert sorted(np.round(centroids.mean(1) / 10).astype(int).tolist()) == [0, 1, 2, 3, 4, 5]


# --- samples ---------------------------------------------------------------------------------------------


def utterances(count: int = 200) -> list[np.ndarray]:
    """One-dimensional frames that are all different and say where they come from."""
    lengths = np.random.default_rng(0).integers(0, 30, size=count)
    return [1000.0 * u + np.arange(length)[:, None] for u, length in enumerate(lengths)]


def sampled(size: int, seed: int = 0, room: int | None = None) -> list[float]:
    sample = FrameSample(size, 1, seed)
    if room is not None:
        sample._rows, sample._keys = torch.empty(room, 1), np.empty(room)
    for u, frames in enumerate(utterances()):
        sample.add(u, frames)
    assert sample.seen == sum(map(len, utterances()))
    return sorted(sample.rows().ravel().tolist())


def test_a_sample_holds_distinct_frames_whatever_the_buffer() -> None:
    taken = sampled(100, room=5000)
    assert len(set(taken)) == 100
    assert taken == sampled(100, room=103) == sampled(100, room=101) == sampled(100)
    assert taken != sampled(100, seed=1)


def test_a_sample_larger_than_the_stream_is_the_stream() -> None:
    assert sampled(100_000) == sorted(np.concatenate(utterances()).ravel().tolist())


def test_every_frame_is_as_likely_as_any_other() -> None:
    """Mean place of 50 of 1000 frames over 200 seeds: 499.5; one σ is 1000 / sqrt(12 · 50 · 200) = 2.9."""
    means = []
    for seed in range(200):
        sample = FrameSample(50, 1, seed)
        for u in range(10):
            sample.add(u, 100.0 * u + np.arange(100)[:, None])
        means.append(float(sample.rows().mean()))
    assert abs(np.mean(means) - 499.5) < 15


def test_memory_of_a_sample_does_not_grow_with_the_stream() -> None:
    """A stream twenty times the sample: what is held stays at 1.25 samples."""
    import tracemalloc

    size, dim = 20_000, 16
    sample = FrameSample(size, dim, 0)
    tracemalloc.start()
    rng = np.random.default_rng(0)
    for u in range(400):
        sample.add(u, rng.standard_normal((1000, dim), dtype=np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sample._rows) == 25_000 and len(sample.rows()) == size and sample.seen == 400_000
    assert peak < 3_000_000  # numpy's part: keys and one utterance; all frames would be 25.6 MB


def test_utterances_are_picked_until_they_hold_enough_frames() -> None:
    frames = np.array([10, 0, 5, 20, 7])
    for wanted in (1, 10, 25, 42, 1000):
        rows = kmeans.pick_utterances(frames, wanted, seed=3)
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert frames[rows].sum() >= min(wanted, frames.sum())
    assert len(kmeans.pick_utterances(frames, 1000, seed=3)) == 5


# --- files -----------------------------------------------------------------------------------------------


def test_a_codebook_comes_back_and_its_files_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    book = Codebook(np.arange(6, dtype=np.float32).reshape(3, 2), {"features": "mfcc"}, {"inertia": 0.5})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        book.save(tmp_path / name / "codebook.npy")
    for file in ("codebook.npy", "codebook.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    found = Codebook.load(tmp_path / "a" / "codebook.npy")
    assert np.array_equal(found.centroids, book.centroids)
    assert (found.source, found.fit) == (book.source, book.fit)


@pytest.mark.parametrize("spoil", ["absent", "cut", "shape", "nan", "no json"])
def test_a_broken_codebook_is_refused(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "codebook.npy"
    Codebook(np.ones((3, 2), dtype=np.float32), {}, {}).save(path)
    if spoil == "absent":
        path.unlink()
    elif spoil == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif spoil == "no json":
        path.with_suffix(".json").unlink()
    else:
        np.save(path, np.full((3, 2), np.nan) if spoil == "nan" else np.ones((2, 2)))
    with pytest.raises(TargetError, match="Learn the codebook again"):
        Codebook.load(path)

"""Codebooks: k-means over a sample of frames, and the files that hold the centroids."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.files import replacing, write_text

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "faiss", "torch", "sklearn")
SAMPLE_BYTES = 400_000_000
OVERSAMPLING = 8  # the utterances that are sampled have so many times the frames that are kept
SEED_ROWS = 30_000  # rows from which k-means++ chooses the initial centroids
BLOCK_ROWS = 8192
MAX_UPDATES = 60
TOLERANCE = 1e-3  # relative decrease of the inertia below which k-means stops


def sample_size(dim: int) -> int:
    """Frames for k-means by default: those that fit into 400 MB in float32 (2.56M MFCCs, 130k of 768)."""
    return SAMPLE_BYTES // (4 * dim)


def pick_utterances(frames: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Rows of a manifest whose frames are sampled: random ones that together have `wanted` frames or more.

    frames: (N,) frames of each row. Returns: (M,) int, ascending; at least one row if there is any.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(frames))
    enough = int(np.searchsorted(np.cumsum(frames[order]), wanted)) + 1
    return np.sort(order[:enough])


class FrameSample:
    """A uniform sample without replacement of at most `size` frames of a stream, in bounded memory.

    Each frame draws a random number from (seed, utterance, frame), and the frames with the smallest numbers
    are kept. Memory: 1.25 × size × dim × 4 bytes.
    """

    def __init__(self, size: int, dim: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.seen = 0
        room = size + max(size // 4, 1024)
        # torch aligns memory: the same sums, bit for bit, in every run
        self._rows = torch.empty(room, dim)
        self._keys = np.empty(room)
        self._held = 0
        self._bound = math.inf

    def add(self, utterance: int, frames: np.ndarray) -> None:
        """Add the frames of one utterance, (T, D). utterance: its row in the manifest."""
        self.seen += len(frames)
        keys = np.random.default_rng([self.seed, 2, utterance]).random(len(frames))
        chosen = np.flatnonzero(keys < self._bound)
        while len(chosen):
            part, chosen = np.split(chosen, [len(self._rows) - self._held])
            end = self._held + len(part)
            self._rows[self._held : end] = torch.from_numpy(np.asarray(frames[part], dtype=np.float32))
            self._keys[self._held : end] = keys[part]
            self._held = end
            if end == len(self._rows):
                self._prune()
                chosen = chosen[keys[chosen] < self._bound]

    def _prune(self) -> None:
        """Keep the `size` smallest keys, in place: kept rows at the end move to places that become free."""
        if self._held <= self.size:
            return
        self._bound = float(np.partition(self._keys[: self._held], self.size)[self.size])
        kept = self._keys[: self._held] < self._bound
        holes = np.flatnonzero(~kept[: self.size])
        moved = self.size + np.flatnonzero(kept[self.size :])
        self._rows[torch.from_numpy(holes)] = self._rows[torch.from_numpy(moved)]
        self._keys[holes] = self._keys[moved]
        self._held = self.size

    def rows(self) -> Tensor:
        """The sampled frames, (min(size, seen), D) float32, in an order that depends on the stream alone."""
        self._prune()
        return self._rows[: self._held]


@dataclass(frozen=True)
class Codebook:
    """Centroids, (K, D) float32. source: what the features are; fit: backend, inertia and other results."""

    centroids: np.ndarray
    source: dict[str, Any]
    fit: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write `path` (.npy), then the .json beside it."""
        with replacing(path) as file:
            np.save(file, self.centroids.astype("<f4"))
        about = {"clusters": len(self.centroids), "dim": self.centroids.shape[1]}
        about |= {"source": self.source, "fit": self.fit}
        write_text(path.with_suffix(".json"), json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Codebook:
        """Raises: TargetError if a file is missing, cut short, not finite, or the two do not fit."""
        path = Path(path)
        hint = "Learn the codebook again."
        try:
            centroids = np.load(path)
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            wanted = (about["clusters"], about["dim"])
            found = cls(centroids, about["source"], about["fit"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TargetError(path, [f"cannot be read with its .json ({error}). {hint}"]) from error
        if centroids.shape != wanted:
            raise TargetError(path, [f"shape {centroids.shape}, wanted {wanted} as its .json says. {hint}"])
        if not np.isfinite(centroids).all():
            raise TargetError(path, [f"holds NaN or infinity. {hint}"])
        return found


def learn(
    rows: Tensor, clusters: int, *, seed: int, backend: str = "auto", device: torch.device | str = "cpu"
) -> tuple[np.ndarray, dict[str, Any]]:
    """k-means over sampled frames.

    rows: (N, D) float32. backend: one of BACKENDS; auto is faiss if it can be imported, else torch, with a
    warning. Returns: the centroids, (K, D) float32, and "backend", "frames" and "inertia", the mean squared
    distance to the nearest centroid.
    Raises: ConfigError if there are fewer frames than clusters, if the frames are not finite, or if faiss is
    asked for and cannot be imported.
    """
    if len(rows) < clusters:
        hint = "Ask for fewer, or give more audio"
        raise ConfigError("--clusters", [f"{clusters} clusters of {len(rows)} frames. {hint}"])
    if not bool(torch.isfinite(rows.sum())):
        raise ConfigError("--features", ["sampled features hold NaN or infinity; the model has diverged"])
    faiss, why = _import_faiss() if backend in ("auto", "faiss") else (None, "")
    if backend == "faiss" and faiss is None:
        hint = "install the extra faiss or faiss-gpu (never both), or take torch"
        raise ConfigError("--kmeans", [f"faiss cannot be imported ({why}); {hint}"])
    if backend == "auto" and faiss is None:
        logger.warning("faiss cannot be imported (%s): k-means runs on torch instead", why)
    if faiss is not None:
        name, centroids = "faiss", _learn_faiss(faiss, rows, clusters, seed)
    elif backend == "sklearn":
        name, centroids = "sklearn", _learn_sklearn(rows, clusters, seed)
    else:
        name, centroids = "torch", learn_torch(rows, clusters, seed=seed, device=device)
    total = sum(float(near.sum()) for _, near, _ in _blocks(rows, torch.from_numpy(centroids)))
    return centroids, {"backend": name, "frames": len(rows), "inertia": total / len(rows)}


def _import_faiss() -> tuple[Any, str]:
    """faiss, or None and the reason: the import of its CUDA build fails in several ways without CUDA."""
    try:
        import faiss
    except (ImportError, OSError, RuntimeError) as error:
        return None, str(error).split("\n")[0]
    return faiss, ""


def _learn_faiss(faiss: Any, rows: Tensor, clusters: int, seed: int) -> np.ndarray:
    gpu = getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    # by default faiss keeps 256 points per cluster, and warns below 39
    settings: dict[str, Any] = {"max_points_per_centroid": len(rows), "min_points_per_centroid": 1}
    if hasattr(faiss, "ClusteringInitMethod_KMEANS_PLUS_PLUS"):
        settings["init_method"] = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    kmeans = faiss.Kmeans(rows.size(1), clusters, niter=25, seed=seed + 1, gpu=gpu, **settings)
    kmeans.train(rows.numpy())
    return np.asarray(kmeans.centroids, dtype=np.float32).reshape(clusters, -1)


def _learn_sklearn(rows: Tensor, clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(clusters, n_init=1, random_state=seed).fit(rows.numpy()).cluster_centers_.astype(np.float32)


def learn_torch(
    rows: Tensor,
    clusters: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_update: Callable[[int, float], None] | None = None,
) -> np.ndarray:
    """Greedy k-means++ and Lloyd's algorithm on 30,000 rows, then Lloyd's algorithm on all rows.

    It stops when an update lowers the mean squared distance by less than 0.1 %. This backend needs no other
    library. rows: (N, D) float32. on_update: called with the number of each update on all rows and its mean
    squared distance.
    Returns: (K, D) float32. A centroid without rows moves to the row that is farthest from its centroid.
    Source: Arthur & Vassilvitskii 2007; Lloyd 1982.
    """
    generator = np.random.default_rng([seed, 3])
    picked = np.sort(generator.permutation(len(rows))[: max(SEED_ROWS, 2 * clusters)])
    few = rows[torch.from_numpy(picked)].to(device)
    centroids = _plus_plus(few, clusters, generator)
    if len(few) < len(rows):
        centroids = _converge(few, centroids, None)
    return _converge(rows, centroids, on_update).cpu().numpy()


def _converge(rows: Tensor, centroids: Tensor, on_update: Callable[[int, float], None] | None) -> Tensor:
    before = math.inf
    for update in range(MAX_UPDATES):
        centroids, inertia = _lloyd(rows, centroids)
        if on_update is not None:
            on_update(update, inertia)
        if before - inertia <= TOLERANCE * inertia:
            break
        before = inertia
    return centroids


def _plus_plus(rows: Tensor, clusters: int, generator: np.random.Generator) -> Tensor:
    """(n, D) -> (K, D) initial centroids: each the best of a few rows, drawn by squared distance."""
    trials = 2 + int(math.log(clusters))
    squares = rows.pow(2).sum(1)
    first = int(generator.integers(len(rows)))
    chosen = [first]
    near = _squared(rows, squares, rows[first : first + 1])[:, 0]
    for _ in range(1, clusters):
        reach = near.double().cumsum(0)
        draws = torch.from_numpy(generator.random(trials)).to(rows.device) * reach[-1]
        candidates = torch.searchsorted(reach, draws).clamp(max=len(rows) - 1)
        # (n, trials)
        distances = torch.minimum(_squared(rows, squares, rows[candidates]), near.unsqueeze(1))
        best = int(distances.double().sum(0).argmin())
        near = distances[:, best].contiguous()
        chosen.append(int(candidates[best]))
    return rows[torch.tensor(chosen, device=rows.device)].clone()


def _squared(rows: Tensor, squares: Tensor, centroids: Tensor) -> Tensor:
    """(n, D), (n,), (k, D) -> (n, k) squared distances."""
    distances = torch.addmm(centroids.pow(2).sum(1), rows, centroids.T, alpha=-2)
    return distances.add_(squares.unsqueeze(1)).clamp_(min=0)


def _blocks(rows: Tensor, centroids: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(block, squared distance to the nearest centroid, its number) of the rows, block by block."""
    squares = centroids.pow(2).sum(1)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS].to(centroids.device)
        # ‖x‖² is the same for all centroids: left out of the matrix, added to its minima
        near, nearest = torch.addmm(squares, block, centroids.T, alpha=-2).min(1)
        yield block, near.double().add_(block.pow(2).sum(1)).clamp_(min=0), nearest


def _lloyd(rows: Tensor, centroids: Tensor) -> tuple[Tensor, float]:
    """One update of Lloyd's algorithm. Returns: new centroids, the mean squared distance to the old ones."""
    clusters = len(centroids)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
    counts = torch.zeros(clusters, dtype=torch.long, device=centroids.device)
    total = 0.0
    for block, near, nearest in _blocks(rows, centroids):
        counts += torch.bincount(nearest, minlength=clusters)
        sums += _sum_by(block, nearest, clusters)
        total += float(near.sum())
    updated = (sums / counts.clamp(min=1).unsqueeze(1)).to(centroids.dtype)
    empty = torch.where(counts == 0)[0]
    if len(empty):
        updated[empty] = _farthest(rows, centroids, len(empty))
    return updated, total / len(rows)


def _sum_by(block: Tensor, nearest: Tensor, clusters: int) -> Tensor:
    """(n, D), (n,) -> (K, D): the sum of each cluster's rows."""
    if block.is_cuda:  # where index_add_ adds in no fixed order
        return (torch.nn.functional.one_hot(nearest, clusters).to(block.dtype).T @ block).double()
    return torch.zeros(clusters, block.size(1)).index_add_(0, nearest, block).double()


def _farthest(rows: Tensor, centroids: Tensor, count: int) -> Tensor:
    """(count, D): the rows farthest from their centroids, farthest first."""
    distances: list[Tensor] = []
    points: list[Tensor] = []
    for block, near, _ in _blocks(rows, centroids):
        far = near.topk(min(count, len(near)))
        distances.append(far.values)
        points.append(block[far.indices])
    order = torch.cat(distances).argsort(descending=True, stable=True)[:count]
    return torch.cat(points)[order]

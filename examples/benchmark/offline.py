"""Offline targets: MFCCs against torchaudio's, k-means against HuBERT's settings."""

from __future__ import annotations

import sys
import types
from collections.abc import Generator
from typing import Any

import numpy as np
import torch

from examples.benchmark.load import Timing, peak_mb
from examples.benchmark.sizes import SIZES
from examples.benchmark.speech import waveform
from fairseq_mtssl.errors import MissingExtraError
from fairseq_mtssl.features.mfcc import Mfcc
from fairseq_mtssl.labels.kmeans import learn_torch

UTTERANCE_S = 12.0
STATES, DWELL_FRAMES = 200, 8


def mfcc(size: str, side: str) -> Generator[dict[str, Any]]:
    """Time the MFCCs with differences of many utterances, one by one. A sample is one pass over them.

    Raises: MissingExtraError for the peer without torchaudio.
    """
    seconds = SIZES[size].mfcc_s
    count = max(1, round(seconds / UTTERANCE_S))
    wavs = [waveform(seconds / count, seed) for seed in range(count)]
    extract = torchaudio_mfcc() if side == "peer" else Mfcc().extract
    extract(wavs[:1])
    while True:
        with Timing() as timing:
            for wav in wavs:
                extract([wav])
        yield timing.sample(audio_s=seconds, **peak_mb())


def mfcc_parity() -> dict[str, Any]:
    """Largest difference of a coefficient between ours and torchaudio's, relative to the largest of all."""
    wav = waveform(3.0, 5)
    ours, theirs = Mfcc().extract([wav])[0][:, 0], torchaudio_mfcc()([wav])[0]
    return {"mfcc": float(np.abs(ours - theirs).max() / np.abs(theirs).max())}


def torchaudio_mfcc() -> Any:
    """What fairseq's dump_mfcc_feature.py computes of each waveform.

    MFCCs are Python code of torchaudio's. Where its C++ extension does not fit this torch, that code is
    taken without it, as torchaudio does where it was built without one.
    Raises: MissingExtraError without torchaudio.
    """
    kaldi, functional = _torchaudio()

    def extract(wavs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [one(torch.from_numpy(wav).float().view(1, -1)) for wav in wavs]

    def one(wav: torch.Tensor) -> np.ndarray:
        static = kaldi.mfcc(waveform=wav, sample_frequency=16_000, use_energy=False).transpose(0, 1)
        first = functional.compute_deltas(static)
        # (39, T) -> (T, 39)
        both = torch.cat([static, first, functional.compute_deltas(first)])
        return np.asarray(both.transpose(0, 1).contiguous().numpy())

    return extract


def _torchaudio() -> tuple[Any, Any]:
    try:
        return _import_torchaudio()
    except (ImportError, OSError, AttributeError):
        without: Any = types.ModuleType("torchaudio._extension")
        without._IS_TORCHAUDIO_EXT_AVAILABLE = without._IS_ALIGN_AVAILABLE = False
        without.fail_if_no_align = lambda function: function
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = without
    try:
        return _import_torchaudio()
    except (ImportError, OSError, AttributeError) as error:
        raise MissingExtraError("the MFCC comparison", "torchaudio", "dev") from error


def _import_torchaudio() -> tuple[Any, Any]:
    import torchaudio.functional
    from torchaudio.compliance import kaldi

    return kaldi, torchaudio.functional


def write_rows(size: str, kind: str, path: str) -> dict[str, Any]:
    """Make what is clustered. kind: "mfcc": MFCCs; "layer": rows made up to be like a layer's features."""
    frames, dim, _ = getattr(SIZES[size], f"kmeans_{kind}")
    rows = mfcc_rows(frames) if kind == "mfcc" else layer_rows(frames, dim)
    np.save(path, rows.numpy())
    return {"frames": frames, "dim": dim}


def kmeans(size: str, side: str, kind: str, rows: str) -> Generator[dict[str, Any]]:
    """Time fits. rows: the file of `write_rows`.

    Yields besides: the mean squared distance of all frames to the nearest centroid.
    """
    frames, _, clusters = getattr(SIZES[size], f"kmeans_{kind}")
    points = torch.from_numpy(np.load(rows))
    fit = {"ours": fit_ours, "peer": fit_hubert}[side]
    while True:
        with Timing() as timing:
            centroids = fit(points, clusters)
        peak = peak_mb()
        yield timing.sample(inertia=inertia(points, centroids), frames=frames, clusters=clusters, **peak)


def fit_ours(rows: torch.Tensor, clusters: int) -> np.ndarray:
    """`--kmeans torch`, the backend that needs no other library."""
    return learn_torch(rows, clusters, seed=0)


def fit_hubert(rows: torch.Tensor, clusters: int) -> np.ndarray:
    """The settings of HuBERT's simple_kmeans."""
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(
        n_clusters=clusters,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        compute_labels=False,
        tol=0.0,
        max_no_improvement=100,
        n_init=20,
        reassignment_ratio=0.0,
        random_state=0,
    ).fit(rows.numpy())
    return np.asarray(fitted.cluster_centers_, dtype=np.float32)


def inertia(rows: torch.Tensor, centroids: np.ndarray) -> float:
    """Mean squared distance to the nearest centroid."""
    means = torch.from_numpy(centroids).double()
    total = sum(
        float(torch.cdist(part.double(), means).min(1).values.square().sum()) for part in rows.split(4096)
    )
    return total / len(rows)


def mfcc_rows(frames: int) -> torch.Tensor:
    """(frames, 39) MFCCs of made-up speech."""
    mfccs, seed = Mfcc(), 0
    found: list[np.ndarray] = []
    while sum(len(each) for each in found) < frames:
        found += [mfccs.extract([waveform(min(UTTERANCE_S, frames / 100 + 0.1), seed)])[0][:, 0]]
        seed += 1
    return torch.from_numpy(np.concatenate(found)[:frames])


def layer_rows(frames: int, dim: int) -> torch.Tensor:
    """(frames, dim): states that last some frames, a mean and noise, spectrum as 1 / rank."""
    rng = np.random.default_rng(11)
    spectrum = 1 / np.sqrt(np.arange(1, dim + 1))
    means = rng.standard_normal((STATES, dim)) * spectrum
    states = np.repeat(rng.integers(STATES, size=frames // DWELL_FRAMES + 1), DWELL_FRAMES)[:frames]
    rows = means[states] + 0.7 * rng.standard_normal((frames, dim)) * spectrum
    return torch.from_numpy(rows.astype(np.float32))

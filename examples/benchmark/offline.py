"""Offline targets: features of layers, MFCCs and k-means of ours and of fairseq or HuBERT."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.benchmark.inputs import utterances, waveform
from examples.benchmark.machine import Timing, peak_mb
from examples.benchmark.parts import SIZES, Size
from examples.benchmark.sides import PRECISIONS, build, computing_in
from fairseq_mtssl.data.audio import normalise
from fairseq_mtssl.errors import MissingExtraError
from fairseq_mtssl.features.layers import ModelLayers
from fairseq_mtssl.features.mfcc import Mfcc
from fairseq_mtssl.labels.kmeans import learn_torch

Features = Callable[[Sequence[np.ndarray]], Iterator[np.ndarray]]


def dump(size: str, side: str, precision: str, device: str, weights: str) -> Generator[dict[str, Any]]:
    """Time the features of a layer. A sample is one pass over all utterances, one by one."""
    sizes, where = SIZES[size], torch.device(device)
    features = {"peer": features_of_peer, "ours": features_of_ours}[side](
        sizes, where, Path(weights), precision
    )
    wavs = utterances(sizes.dump_s)
    list(features(wavs[:1]))
    while True:
        with Timing(where) as timing:
            frames = sum(len(each) for each in features(wavs))
        yield timing.sample(audio_s=sum(sizes.dump_s), frames=frames, **peak_mb(where))


def features_of_ours(size: Size, device: torch.device, weights: Path, precision: str) -> Features:
    """What `mtssl dump-features` computes, without files."""
    model = build("ours", size, device, weights).model
    products = PRECISIONS[precision]
    features = ModelLayers(model, size.dump_layer, prepare=normalise, device=device, precision=products)

    def extract(wavs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for wav in wavs:
            yield features.extract([wav])[0][:, 0]

    return extract


def features_of_peer(size: Size, device: torch.device, weights: Path, precision: str) -> Features:
    """The loop of HuBERT's dump_hubert_feature.py around fairseq's model."""
    model = build("peer", size, device, weights).model.eval()

    def extract(wavs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for wav in wavs:
            with torch.no_grad(), computing_in(precision, device):
                source = torch.from_numpy(wav).float().to(device)
                source = torch.nn.functional.layer_norm(source, source.shape).view(1, -1)
                found = model.extract_features(source, None, mask=False, layer=size.dump_layer - 1)
            yield found["x"][0].float().cpu().numpy()

    return extract


UTTERANCE_S = 12.0
STATES, DWELL_FRAMES = 200, 8


def mfcc(size: str, side: str) -> Generator[dict[str, Any]]:
    """Time MFCCs with their differences. A sample is one pass over many utterances, one by one.

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
    """The function of fairseq's dump_mfcc_feature.py, with MFCCs of torchaudio, which are Python code.

    If the C++ extension of torchaudio does not fit this torch, torchaudio is imported without it.
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
    """Write the rows to be clustered. kind: `mfcc`, or `layer` for rows like the features of a layer."""
    frames, dim, _ = getattr(SIZES[size], f"kmeans_{kind}")
    rows = mfcc_rows(frames) if kind == "mfcc" else layer_rows(frames, dim)
    np.save(path, rows.numpy())
    return {"frames": frames, "dim": dim}


def kmeans(size: str, side: str, kind: str, path: str) -> Generator[dict[str, Any]]:
    """Time fits, and measure the mean squared distance of all rows to their nearest centroid.

    path: the file of `write_rows`.
    """
    frames, _, clusters = getattr(SIZES[size], f"kmeans_{kind}")
    points = torch.from_numpy(np.load(path))
    fit = {"ours": fit_ours, "peer": fit_hubert}[side]
    while True:
        with Timing() as timing:
            centroids = fit(points, clusters)
        peak = peak_mb()
        yield timing.sample(inertia=inertia(points, centroids), frames=frames, clusters=clusters, **peak)


def fit_ours(rows: torch.Tensor, clusters: int) -> np.ndarray:
    """Centroids by `--kmeans torch`, the backend that needs no other library."""
    return learn_torch(rows, clusters, seed=0)


def fit_hubert(rows: torch.Tensor, clusters: int) -> np.ndarray:
    """Centroids with the settings of HuBERT's simple_kmeans."""
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
    """(frames, dim): states of some frames with a mean and noise each, whose spectrum falls as 1 / rank."""
    rng = np.random.default_rng(11)
    spectrum = 1 / np.sqrt(np.arange(1, dim + 1))
    means = rng.standard_normal((STATES, dim)) * spectrum
    states = np.repeat(rng.integers(STATES, size=frames // DWELL_FRAMES + 1), DWELL_FRAMES)[:frames]
    rows = means[states] + 0.7 * rng.standard_normal((frames, dim)) * spectrum
    return torch.from_numpy(rows.astype(np.float32))

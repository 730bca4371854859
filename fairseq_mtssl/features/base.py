"""The interface of feature extractors, and running one over many utterances in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from fairseq_mtssl.frames import SAMPLE_RATE_HZ

GPU_BATCH_S = 400.0
WINDOW_BATCHES = 16
"""Utterances are sorted by length among so many batches at a time."""


class Extractor(Protocol):
    """Gives the frames of waveforms: MFCCs, log-mel energies, or layers of a model.

    names: the layers, as tables show them; features that have no layers are one layer. dim: D. hop_samples:
    samples from one frame to the next; window_samples: samples that one frame covers. source: what the
    features are, for targets.json.
    """

    names: list[str]
    dim: int
    hop_samples: int
    window_samples: int
    source: dict[str, Any]

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms at 16 kHz of shape (S,) -> frames of shape (T, L, D), float32, T = frame_count(S).

        The frames of an utterance do not depend on what else is in the batch.
        """
        ...


def describe(extractor: Extractor) -> dict[str, Any]:
    """Features as codebook.json, features.json and targets.json describe them."""
    shape = {name: getattr(extractor, name) for name in ("dim", "hop_samples", "window_samples")}
    return {**extractor.source, **shape}


def batch_samples(seconds: float | None, device: torch.device) -> int | None:
    """Samples that a model is given at once, None: one utterance at a time, which is fastest on a CPU.

    seconds: as the option --batch-seconds says, 0 for one utterance; None: what suits the device.
    """
    if seconds is None:
        seconds = GPU_BATCH_S if device.type == "cuda" else 0.0
    return round(seconds * SAMPLE_RATE_HZ) if seconds > 0 else None


def stream(
    extractor: Extractor, wavs: Iterable[np.ndarray], batch_samples: int | None = None
) -> Iterator[np.ndarray]:
    """Frames of utterances, (T, L, D) each, in their order.

    batch_samples: None takes the utterances one by one. Otherwise utterances of similar length share a batch
    of so many samples, padding included; they are taken from WINDOW_BATCHES batches at a time.
    """
    if batch_samples is None:
        for wav in wavs:
            yield extractor.extract([wav])[0]
        return
    window: list[np.ndarray] = []
    held = 0
    for wav in wavs:
        window.append(wav)
        held += len(wav)
        if held >= WINDOW_BATCHES * batch_samples:
            yield from _by_length(extractor, window, batch_samples)
            window, held = [], 0
    yield from _by_length(extractor, window, batch_samples)


def _by_length(extractor: Extractor, wavs: list[np.ndarray], batch_samples: int) -> list[np.ndarray]:
    by_row: dict[int, np.ndarray] = {}
    for batch in bucket([len(wav) for wav in wavs], batch_samples):
        by_row.update(zip(batch, extractor.extract([wavs[row] for row in batch]), strict=True))
    return [by_row[row] for row in range(len(wavs))]


def bucket(lengths: Sequence[int], batch_samples: int) -> list[list[int]]:
    """Rows in batches of similar length: clips times the longest one ≤ batch_samples, or a clip alone.

    batch_samples: 0 leaves every clip alone.
    """
    batches: list[list[int]] = []
    # longest first: a batch that does not fit in memory shows at once
    for row in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        last = batches[-1] if batches else []
        if last and lengths[last[0]] * (len(last) + 1) <= batch_samples:
            last.append(row)
        else:
            batches.append([row])
    return batches

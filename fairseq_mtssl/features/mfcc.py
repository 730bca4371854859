"""Kaldi's MFCCs of whole utterances at 100 Hz."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.features.spectral import SpectralFeatures
from fairseq_mtssl.modules.log_mel import log_mel

CEPSTRA, MEL_BINS, LIFTER = 13, 23, 22


class Mfcc(SpectralFeatures):
    """13 MFCCs with first and second differences: 39 dimensions at 100 Hz, as in HuBERT's first iteration.

    Kaldi's defaults without dither and energy: windows of 25 ms, 23 mel filters from 20 Hz, lifter 22.
    centred: subtract from each coefficient its mean over the utterance (cepstral mean normalisation), which
    removes much of what the microphone and the voice add to all frames.
    Source: Hsu et al. 2021, arXiv 2106.07447; the options of fairseq's dump_mfcc_feature.py.
    """

    dim = 3 * CEPSTRA

    def __init__(self, centred: bool = False) -> None:
        super().__init__("mfcc-cmn" if centred else "mfcc")
        self.centred = centred

    def _frames(self, wav: Tensor) -> np.ndarray:
        static: np.ndarray = _cepstra(wav).numpy()
        if self.centred:
            static -= static.mean(0)
        first = differences(static)
        return np.concatenate([static, first, differences(first)], axis=1)


def _cepstra(wav: Tensor) -> Tensor:
    """(S,) -> (T, 13)."""
    return log_mel(wav.unsqueeze(0), MEL_BINS)[0] @ _cosines()


@lru_cache(maxsize=1)
def _cosines() -> Tensor:
    """The discrete cosine transform with its lifter, (23, 13)."""
    order = torch.arange(CEPSTRA, dtype=torch.float64)
    cosines = torch.cos(math.pi * order * (torch.arange(MEL_BINS)[:, None] + 0.5) / MEL_BINS)
    cosines *= torch.where(order == 0, 1.0, 2.0).div(MEL_BINS).sqrt()
    cosines *= 1 + LIFTER / 2 * torch.sin(math.pi * order / LIFTER)
    return cosines.float()


def differences(frames: np.ndarray) -> np.ndarray:
    """(T, D) -> (T, D): slope over five frames, the edges repeated; d_t = Σ n (c_{t+n} − c_{t−n}) / 10."""
    padded = np.pad(frames, ((2, 2), (0, 0)), mode="edge")
    slope = (padded[3:-1] - padded[1:-3]) + 2 * (padded[4:] - padded[:-4])
    return (slope / 10).astype(np.float32)

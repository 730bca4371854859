"""Log-mel energies of whole utterances at 100 Hz, and what MFCCs have in common with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.modules.fbank_features import normalise
from fairseq_mtssl.modules.log_mel import HOP_SAMPLES, WINDOW_SAMPLES, log_mel


class SpectralFeatures(ABC):
    """Features of windows of 25 ms every 10 ms, one utterance at a time. It is an `Extractor` of one layer.

    name: of the features, as --features gives it.
    """

    dim: int
    hop_samples = HOP_SAMPLES
    window_samples = WINDOW_SAMPLES

    def __init__(self, name: str) -> None:
        self.names = [name]
        self.source: dict[str, Any] = {"features": name}

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Extractor: (T, 1, D) each; an utterance shorter than a window has no frames."""
        # (T, D) -> (T, 1, D)
        return [self._extract_one(wav)[:, np.newaxis] for wav in wavs]

    def _extract_one(self, wav: np.ndarray) -> np.ndarray:
        if len(wav) < self.window_samples:
            return np.zeros((0, self.dim), dtype=np.float32)
        with torch.inference_mode():
            return self._frames(torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32)))

    @abstractmethod
    def _frames(self, wav: Tensor) -> np.ndarray:
        """A waveform (S,) of one window or more, float32 -> (T, D) float32."""


class LogMel(SpectralFeatures):
    """80 log-mel energies, each bin with mean 0 and variance 1 over the utterance.

    Models with `feature_extractor=fbank` get the same energies.
    """

    dim = 80

    def __init__(self) -> None:
        super().__init__("log-mel")

    def _frames(self, wav: Tensor) -> np.ndarray:
        energies = log_mel(wav[None], self.dim)
        # (1, T, 80) -> (T, 80)
        frames: np.ndarray = normalise(energies, torch.tensor([energies.size(1)]))[0].numpy()
        return frames

"""What features computed of short windows of the waveform have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.modules.log_mel import HOP_SAMPLES, WINDOW_SAMPLES


class SpectralFeatures(ABC):
    """Features of windows of 25 ms every 10 ms, one utterance at a time. See Features."""

    dim: int
    hop_samples = HOP_SAMPLES
    window_samples = WINDOW_SAMPLES

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(S,) waveforms -> (T, dim) float32 each; an utterance shorter than a window has no frames."""
        return [self._extract_one(wav) for wav in wavs]

    def _extract_one(self, wav: np.ndarray) -> np.ndarray:
        if len(wav) < self.window_samples:
            return np.zeros((0, self.dim), dtype=np.float32)
        with torch.inference_mode():
            return self._frames(torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32)))

    @abstractmethod
    def _frames(self, wav: Tensor) -> np.ndarray:
        """(S,) float32, a window at least -> (T, dim) float32."""

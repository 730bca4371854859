"""Log-mel filterbanks of whole utterances at 100 Hz: what a model with `front_end=fbank` is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fairseq_mtssl.modules.fbank_features import normalise
from fairseq_mtssl.modules.log_mel import HOP_SAMPLES, WINDOW_SAMPLES, log_mel

MEL_BINS = 80


class LogMel:
    """80 log-mel energies at 100 Hz, of mean 0 and variance 1 in each bin over the utterance.

    See Features.
    """

    dim = MEL_BINS
    hop_samples = HOP_SAMPLES
    window_samples = WINDOW_SAMPLES

    def __init__(self) -> None:
        self.source: dict[str, Any] = {"features": "log-mel"}

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(S,) float waveforms -> (T, 80) float32 each; an utterance shorter than a window has no frames."""
        return [self._extract_one(wav) for wav in wavs]

    def _extract_one(self, wav: np.ndarray) -> np.ndarray:
        if len(wav) < self.window_samples:
            return np.zeros((0, self.dim), dtype=np.float32)
        with torch.inference_mode():
            energies = log_mel(torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32))[None], MEL_BINS)
            # (1, T, 80) -> (T, 80)
            return normalise(energies, torch.tensor([energies.size(1)]))[0].numpy()

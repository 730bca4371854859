"""Log-mel filterbanks of whole utterances at 100 Hz, as models with `feature_extractor=fbank` get them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.features.spectral import SpectralFeatures
from fairseq_mtssl.modules.fbank_features import normalise
from fairseq_mtssl.modules.log_mel import log_mel

MEL_BINS = 80


class LogMel(SpectralFeatures):
    """80 log-mel energies at 100 Hz, each bin with mean 0 and variance 1 over the utterance."""

    dim = MEL_BINS

    def __init__(self) -> None:
        super().__init__("log-mel")

    def _frames(self, wav: Tensor) -> np.ndarray:
        energies = log_mel(wav[None], MEL_BINS)
        # (1, T, 80) -> (T, 80)
        frames: np.ndarray = normalise(energies, torch.tensor([energies.size(1)]))[0].numpy()
        return frames

"""Frozen features as a module: layers of an encoder that is kept in checkpoints, or MFCCs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.features.base import Extractor, batch_samples, stream
from fairseq_mtssl.features.layers import ModelLayers
from fairseq_mtssl.features.mfcc import Mfcc
from fairseq_mtssl.frames import hop_samples, min_samples
from fairseq_mtssl.modules.encoder_options import EncoderSizes
from fairseq_mtssl.modules.frozen import Frozen
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder
from fairseq_mtssl.prefetch import read_ahead

WEIGHTED = "weighted"


def parse_layer(text: str, count: int) -> list[int]:
    """The layers that model.layer names: 1 to count for `weighted`, else the one. Raises: ConfigError."""
    if text == WEIGHTED:
        return list(range(1, count + 1))
    if not text.isdecimal() or not 1 <= int(text) <= count:
        raise ConfigError("model.layer", [f"got {text!r}, wanted 1 to {count}, or {WEIGHTED}"])
    return [int(text)]


class FrozenFeatures(Frozen):
    """The features of a probe, of one layer or all of them, from an encoder that is never trained.

    sizes: of the encoder; None: MFCCs, which have one layer. layer: a number from 1, or `weighted` for all.
    The module is always in evaluation mode, in single precision and without gradients. Its weights go into
    checkpoints, with the mean and scale, (L, D) each, by which `evaluation.probing.standardise` gives
    features of mean 0 and std 1 over the training frames.
    Raises: ConfigError for a layer that there is not.
    """

    mean: Tensor
    scale: Tensor
    measured: Tensor

    def __init__(self, sizes: dict[str, Any] | None, layer: str) -> None:
        super().__init__()
        self.speech_encoder = None if sizes is None else SpeechEncoder(EncoderSizes.of_plain(sizes))
        if self.speech_encoder is not None:
            self.layers = parse_layer(layer, self.speech_encoder.num_layers)
            self.dim = self.speech_encoder.dim
            self.hop_samples = hop_samples(self.speech_encoder.conv_layers)
            self.window_samples = min_samples(self.speech_encoder.conv_layers)
        else:
            self.layers = parse_layer(layer, 1)
            self.dim, self.hop_samples, self.window_samples = Mfcc.dim, Mfcc.hop_samples, Mfcc.window_samples
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.zeros(len(self.layers), self.dim))
        self.register_buffer("scale", torch.ones(len(self.layers), self.dim))
        self.register_buffer("measured", torch.tensor(False))

    @torch.no_grad()
    def measure(self, mean: Tensor, scale: Tensor) -> None:
        """Set the mean and scale, (L, D) each."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.measured.fill_(True)

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Extractor. The frames are not standardised."""
        return self._extractor().extract(wavs)

    def stream(self, read: Callable[[int], np.ndarray], rows: Sequence[int]) -> Iterator[np.ndarray]:
        """`extract` of the waveforms that `read` gives of rows, in their order, read ahead."""
        return stream(self._extractor(), read_ahead(read, rows), batch_samples(None, self.mean.device))

    def _extractor(self) -> Extractor:
        if self.speech_encoder is None:
            return Mfcc()
        return ModelLayers(self, self.layers, device=self.mean.device)

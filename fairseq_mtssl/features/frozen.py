"""Frozen features as a module: layers of an encoder kept with its weights, or MFCCs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.features.layers import LayerStack, stream
from fairseq_mtssl.features.mfcc import Mfcc
from fairseq_mtssl.frames import SAMPLE_RATE_HZ, hop_samples, min_samples
from fairseq_mtssl.modules.encoder_options import EncoderSizes
from fairseq_mtssl.modules.frozen import Frozen
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder
from fairseq_mtssl.prefetch import read_ahead

WEIGHTED = "weighted"
BATCH_S = 400  # audio put through at once on a GPU


def parse_layer(text: str, count: int) -> list[int]:
    """`weighted`: all layers 1 … count; else the one. Raises: ConfigError."""
    if text == WEIGHTED:
        return list(range(1, count + 1))
    if not text.isdecimal() or not 1 <= int(text) <= count:
        raise ConfigError("model.layer", [f"got {text!r}, wanted 1 to {count}, or {WEIGHTED}"])
    return [int(text)]


class FrozenFeatures(Frozen):
    """(T, L, D) of waveforms: one layer or all of an encoder that never changes, then mean 0 and spread 1.

    sizes: of the encoder; None: MFCCs, which have one layer. layer: a number from 1, or `weighted`.
    Always in evaluation mode, in single precision, without gradients; its weights, and the mean and scale of
    `standardise`, go into checkpoints.
    Raises: ConfigError for a layer that there is not.
    """

    mean: Tensor
    scale: Tensor
    measured: Tensor

    def __init__(self, sizes: dict[str, Any] | None, layer: str) -> None:
        super().__init__()
        self.mfcc = Mfcc() if sizes is None else None
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
        self.source: dict[str, Any] = {"layers": self.layers}

    @torch.no_grad()
    def measure(self, mean: Tensor, scale: Tensor) -> None:
        """Take the mean and scale, (L, D) each, that frames get from now on."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.measured.fill_(True)

    def standardise(self, frames: Tensor) -> Tensor:
        """(…, L, D) -> the same in single precision, of mean 0 and spread 1 over what was measured."""
        return (frames.float() - self.mean) * self.scale

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(S,) float waveforms -> (T, L, D) float32 each, not standardised; the batch changes nothing."""
        if self.mfcc is not None:
            return [frames[:, np.newaxis] for frames in self.mfcc.extract(wavs)]
        stack = LayerStack(self, self.layers, prepare=np.asarray, source={}, device=self.mean.device)
        return stack.extract(wavs)

    def stream(self, read: Callable[[int], np.ndarray], rows: Sequence[int]) -> Iterator[np.ndarray]:
        """`extract` of the waveforms that `read` gives of rows, in their order."""
        batch = BATCH_S * SAMPLE_RATE_HZ if self.mean.device.type == "cuda" else None
        return stream(self, read_ahead(read, rows), batch)

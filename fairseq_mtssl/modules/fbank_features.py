"""The feature extractor `fbank`: log-mel filterbanks and a few strided convolutions.

Source: Yang et al. 2023, arXiv 2309.13860 (Fast-HuBERT), section 3; convolutions with gated linear units that
subsample: Synnaeve et al. 2020, arXiv 1911.08460.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairseq_mtssl.frames import ConvLayer, conv_length, padding_mask
from fairseq_mtssl.modules.fbank_augment import FbankAugment
from fairseq_mtssl.modules.log_mel import HOP_SAMPLES, WINDOW_SAMPLES, log_mel

EXAMPLE = "[(80,400,160)] + [(512,5,2,2)] * 2"

EPSILON = 1e-3
"""Added to the variance of a bin, which in speech is 1 and more, so that silence stays near 0."""


def fbank_errors(layers: Sequence[ConvLayer]) -> list[str]:
    """Return the errors in the layers of an FbankFeatures; `EXAMPLE` is right."""
    (_, window, hop, *padding), *convs = layers
    is_log_mel = (window, hop, sum(padding)) == (WINDOW_SAMPLES, HOP_SAMPLES, 0)
    # the centre of a frame has to be the centre of a frame below, because labels are computed for that time
    is_centred = all(kernel == 2 * sum(padding) + 1 for _, kernel, _, *padding in convs)
    if is_log_mel and convs and is_centred:
        return []
    wanted = f"(mel bins, {WINDOW_SAMPLES}, {HOP_SAMPLES}), then (channels, 2 · padding + 1, stride, padding)"
    got = f"conv_feature_layers {list(layers)} with feature_extractor=fbank"
    return [f"{got}: wanted {wanted}, such as {EXAMPLE}"]


class FbankFeatures(nn.Module):
    """Log-mel energies, normalised per bin to mean 0 and variance 1 over the clip, and centred convolutions.

    layers: (mel bins, window, hop), and (channels, kernel, stride, padding) of each convolution, as in
    `EXAMPLE`. A convolution computes twice its channels; one half gates the other.
    conv_bias: gives the convolutions a bias. augment: applied in training.
    The output for a row does not depend on its padding, because the input of every convolution is 0 past the
    end of a row. Fast-HuBERT normalises with the mean and variance of the training set instead.
    """

    def __init__(
        self, layers: Sequence[ConvLayer], *, conv_bias: bool, augment: FbankAugment | None = None
    ) -> None:
        super().__init__()
        self.layers = list(layers)
        self.augment = augment or FbankAugment()
        sizes = zip(self.layers, self.layers[1:])
        self.convs = nn.ModuleList(
            nn.Conv1d(below, 2 * channels, kernel, stride, sum(padding), bias=conv_bias)
            for (below, *_), (channels, kernel, stride, *padding) in sizes
        )

    def forward(self, source: Tensor, lengths: Tensor) -> Tensor:
        """Compute features: (B, S) waveforms -> (B, C, T), 0 past the end of each row.

        lengths: (B,) samples, each at least WINDOW_SAMPLES.
        """
        frames = conv_length(lengths, self.layers[:1])
        energies = log_mel(source, self.layers[0][0])
        if self.training:
            x = self.augment.masked(normalise(self.augment.warped(energies), frames))
        else:
            x = normalise(energies, frames)
        # (B, T, bins) -> (B, bins, T)
        x = x.transpose(1, 2).type_as(next(self.parameters()))
        for conv, layer in zip(self.convs, self.layers[1:], strict=True):
            x = nn.functional.glu(conv(x), dim=1)
            frames = conv_length(frames, [layer])
            x = x.masked_fill(padding_mask(frames, x.size(2)).unsqueeze(1), 0)
        return x


@torch.no_grad()
def normalise(energies: Tensor, frames: Tensor) -> Tensor:
    """Normalise each bin of each row to mean 0 and variance 1 over the valid frames; padding becomes 0.

    energies: (B, T, bins); frames: (B,) valid frames, each at least 1. Returns: (B, T, bins).
    """
    # multiplied by a mask: on a CPU, `masked_fill` with a mask that all bins share is several times slower
    keep = (~padding_mask(frames, energies.size(1))).type_as(energies).unsqueeze(-1)
    count = frames.view(-1, 1, 1)
    mean = (energies * keep).sum(1, keepdim=True) / count
    centred = energies.sub(mean).mul_(keep)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred.mul_((variance + EPSILON).rsqrt())

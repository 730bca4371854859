"""Augmentation of log-mel energies in training: a stretched frequency axis, masked frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_mtssl.frames import SAMPLE_RATE_HZ
from fairseq_mtssl.modules.log_mel import LOW_HZ, hertz_of, mel_of

MAX_WARP = 0.5
TOP_SHARE = 0.8
"""Share of the frequency range in which the warp is linear; above it, the top frequency stays in place."""


@dataclass(frozen=True)
class FbankAugment:
    """The augmentation of each clip in training.

    warp: vocal-tract length perturbation: per clip the frequency axis is stretched by a factor drawn
        uniformly from [1 − warp, 1 + warp], as if the vocal tract were longer or shorter. 0: none.
    mask_bins: per clip up to this many neighbouring mel bins, at a random position, are set to their mean.
        0: none.
    Random numbers come from torch's CPU generator, which fairseq seeds with the number of the update.
    Source: Jaitly & Hinton 2013 (VTLP); Park et al. 2019, arXiv 1904.08779 (SpecAugment's frequency masks).
    """

    warp: float = 0.0
    mask_bins: int = 0

    def errors(self, bins: int) -> list[str]:
        """Return the errors in the values. bins: number of mel bins."""
        errors = []
        if not 0 <= self.warp <= MAX_WARP:
            errors.append(f"fbank_warp {self.warp}: wanted 0 to {MAX_WARP}")
        if not 0 <= self.mask_bins < bins:
            errors.append(
                f"fbank_mask_bins {self.mask_bins}: wanted 0 to {bins - 1}, fewer than the mel bins"
            )
        return errors

    def warped(self, energies: Tensor) -> Tensor:
        """Stretch the frequency axis of each clip. Log-mel energies (B, T, bins) -> the same shape."""
        if self.warp == 0:
            return energies
        factors = 1 + self.warp * (2 * torch.rand(len(energies)) - 1)
        return torch.bmm(energies, warp_matrices(factors, energies.size(-1)).to(energies))

    def masked(self, energies: Tensor) -> Tensor:
        """Set some bins of each clip to 0. energies: (B, T, bins), of mean 0; returns the same shape."""
        if self.mask_bins == 0:
            return energies
        rows, bins = len(energies), energies.size(-1)
        widths = (torch.rand(rows, 1) * (self.mask_bins + 1)).long()
        starts = (torch.rand(rows, 1) * (bins - widths + 1)).long()
        index = torch.arange(bins)
        keep = (index < starts) | (index >= starts + widths)  # (B, bins)
        return energies * keep.to(energies).unsqueeze(1)


def warp_matrices(factors: Tensor, bins: int) -> Tensor:
    """Return the matrices (B, bins, bins) by which log-mel energies are multiplied to stretch frequencies.

    factors: (B,). In the product each bin has the value at factor times its frequency, interpolated between
    the two nearest bins, so that the columns of a matrix sum to 1.
    """
    factor = factors.double().unsqueeze(1)
    top = torch.tensor(SAMPLE_RATE_HZ / 2, dtype=torch.float64)
    low, high = mel_of(torch.tensor(LOW_HZ, dtype=torch.float64)), mel_of(top)
    share = torch.linspace(0, 1, bins + 2, dtype=torch.float64)[1:-1]
    hertz = hertz_of(low + share * (high - low))
    # the source frequency is factor · hertz up to the knee; from there a straight line leads to (top, top)
    knee = TOP_SHARE * top / factor.clamp(min=1.0)
    above = knee * factor + (hertz - knee) * (top - knee * factor) / (top - knee)
    source = torch.where(hertz <= knee, hertz * factor, above)  # (B, bins)
    position = (mel_of(source) - low) / (high - low) * (bins + 1) - 1  # in bins, not an integer
    position = position.clamp(0, bins - 1)
    below = position.floor().clamp(max=bins - 2)
    fraction = (position - below).float().unsqueeze(1)
    rows = below.long().unsqueeze(1)  # (B, 1, bins)
    matrices = torch.zeros(len(factors), bins, bins)
    return matrices.scatter_(1, rows, 1 - fraction).scatter_(1, rows + 1, fraction)

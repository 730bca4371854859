"""Augmentation of log-mel energies in training: other vocal tracts, missing frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_mtssl.frames import SAMPLE_RATE_HZ
from fairseq_mtssl.modules.log_mel import LOW_HZ, hertz_of, mel_of

MAX_WARP = 0.5
TOP_SHARE = 0.8
"""Share of the frequencies below which the warp is linear; above, it leads back to the highest frequency."""


@dataclass(frozen=True)
class FbankAugment:
    """What is done to each clip in training.

    warp: vocal-tract length perturbation; the frequency axis is stretched by a factor drawn evenly from
        [1 − warp, 1 + warp] for each clip, as if a longer or a shorter vocal tract had spoken. 0: none.
    mask_bins: up to so many neighbouring mel bins, at a place of each clip's own, are set to their mean.
        0: none.
    Drawn from torch's generator on the CPU, which fairseq seeds with the number of the update.
    Source: Jaitly & Hinton 2013 (VTLP); Park et al. 2019, arXiv 1904.08779 (SpecAugment's frequency masks).
    """

    warp: float = 0.0
    mask_bins: int = 0

    def errors(self, bins: int) -> list[str]:
        """What is wrong with the values for energies of so many bins."""
        found = []
        if not 0 <= self.warp <= MAX_WARP:
            found.append(f"fbank_warp {self.warp}: wanted 0 to {MAX_WARP}")
        if not 0 <= self.mask_bins < bins:
            found.append(f"fbank_mask_bins {self.mask_bins}: wanted 0 to {bins - 1}, fewer than the mel bins")
        return found

    def warped(self, energies: Tensor) -> Tensor:
        """(B, T, bins) log-mel energies -> the same, each clip with a frequency axis of its own."""
        if self.warp == 0:
            return energies
        factors = 1 + self.warp * (2 * torch.rand(len(energies)) - 1)
        return torch.bmm(energies, warp_matrices(factors, energies.size(-1)).to(energies))

    def masked(self, energies: Tensor) -> Tensor:
        """(B, T, bins) normalised energies, of mean 0 -> the same with some bins 0."""
        if self.mask_bins == 0:
            return energies
        rows, bins = len(energies), energies.size(-1)
        widths = (torch.rand(rows, 1) * (self.mask_bins + 1)).long()
        starts = (torch.rand(rows, 1) * (bins - widths + 1)).long()
        places = torch.arange(bins)
        keep = (places < starts) | (places >= starts + widths)  # (B, bins)
        return energies * keep.to(energies).unsqueeze(1)


def warp_matrices(factors: Tensor, bins: int) -> Tensor:
    """(B,) factors -> (B, bins, bins): by which energies are multiplied so that each bin gets what lies at a
    factor times its frequency, taken from the two neighbouring bins. Their columns sum to 1.
    """
    factor = factors.double().unsqueeze(1)
    top = torch.tensor(SAMPLE_RATE_HZ / 2, dtype=torch.float64)
    low, high = mel_of(torch.tensor(LOW_HZ, dtype=torch.float64)), mel_of(top)
    share = torch.linspace(0, 1, bins + 2, dtype=torch.float64)[1:-1]
    hertz = hertz_of(low + share * (high - low))
    # linear up to the knee, then on a straight line to the highest frequency, which stays where it is
    knee = TOP_SHARE * top / factor.clamp(min=1.0)
    above = knee * factor + (hertz - knee) * (top - knee * factor) / (top - knee)
    source = torch.where(hertz <= knee, hertz * factor, above)  # (B, bins)
    places = (mel_of(source) - low) / (high - low) * (bins + 1) - 1
    places = places.clamp(0, bins - 1)
    below = places.floor().clamp(max=bins - 2)
    part = (places - below).float().unsqueeze(1)
    rows = below.long().unsqueeze(1)  # (B, 1, bins)
    matrices = torch.zeros(len(factors), bins, bins)
    return matrices.scatter_(1, rows, 1 - part).scatter_(1, rows + 1, part)

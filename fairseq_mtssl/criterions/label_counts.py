"""Baselines of predicting cluster labels without the input: from their number and how often each occurs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq_mtssl.ssl.base import Measure


class LabelCounts:
    """Counts the frames of each label, per label set, over all batches that this process has seen.

    One batch is too small to find the most frequent label. With several ranks each counts its own frames, and
    the mean over ranks is logged.
    """

    def __init__(self) -> None:
        self._counts: dict[int, Tensor] = {}

    @torch.no_grad()
    def add(self, counts: Sequence[Tensor], index: int) -> dict[str, Measure]:
        """Add the labels of some batches and return the baselines of this label set so far.

        counts: per batch (K,) frames of each label. index: of the label set.
        Returns: means over the labelled frames of these batches, by the names under which they are logged:
            chance_off: accuracy of a uniform guess among K labels, in percent;
            frequent_off: accuracy of always predicting the most frequent label, in percent;
            loss_off_entropy: cross-entropy of predicting the labels' frequencies, in nats;
            loss_off_chance: cross-entropy of predicting all labels with equal probability, ln K.
        """
        # float64 counts a year of frames exactly
        batch = torch.stack(list(counts)).sum(0).double()
        labelled = batch.sum().float()
        total = batch + self._counts[index] if index in self._counts else batch
        self._counts[index] = total
        shares = (total / total.sum().clamp(min=1)).float()
        return {
            "chance_off": Measure(labelled * (100.0 / len(total)), labelled),
            "frequent_off": Measure(labelled * shares.max() * 100.0, labelled),
            "loss_off_entropy": Measure(labelled * torch.special.entr(shares).sum(), labelled),
            "loss_off_chance": Measure(labelled * math.log(len(total)), labelled),
        }

"""What is known of cluster labels without learning anything: how many there are, how often each occurs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq_mtssl.ssl.base import Measure


class LabelCounts:
    """Frames of each label, of each label set, over all that this process has seen.

    A batch is too small to say which label is the most frequent. Under several ranks each counts its own
    frames, and what is logged is the mean of theirs.
    """

    def __init__(self) -> None:
        self._counts: dict[int, Tensor] = {}

    @torch.no_grad()
    def add(self, counts: Sequence[Tensor], index: int) -> dict[str, Measure]:
        """Take in the labels of some batches, and say what is known of this label set so far.

        counts: (K,) frames of each label, one tensor a batch. index: of the label set.
        Returns: means over the labelled frames of these batches, by the names under which they are logged:
            chance_off, the accuracy of a guess among K labels, percent; frequent_off, that of always saying
            the most frequent label; loss_off_entropy, the cross-entropy of predicting how often each label
            occurs, in nats; loss_off_chance, that of predicting all alike, ln K.
        """
        # float64, in which a year of frames is counted exactly
        here = torch.stack(list(counts)).sum(0).double()
        labelled = here.sum().float()
        total = here + self._counts[index] if index in self._counts else here
        self._counts[index] = total
        shares = (total / total.sum().clamp(min=1)).float()
        return {
            "chance_off": Measure(labelled * (100.0 / len(total)), labelled),
            "frequent_off": Measure(labelled * shares.max() * 100.0, labelled),
            "loss_off_entropy": Measure(labelled * torch.special.entr(shares).sum(), labelled),
            "loss_off_chance": Measure(labelled * math.log(len(total)), labelled),
        }

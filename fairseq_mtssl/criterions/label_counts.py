"""What is known of cluster labels without learning anything: how many there are, how often each occurs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class LabelCounts:
    """Frames of each label, of each label set, over all that this process has seen.

    A batch is too small to say which label is the most frequent. Under several ranks each counts its own
    frames, and what is logged is the mean of theirs.
    """

    def __init__(self) -> None:
        self._counts: dict[int, Tensor] = {}

    @torch.no_grad()
    def add(self, outputs: list[dict[str, Any]], index: int) -> dict[str, Tensor]:
        """Take in a label set of what MaskedPrediction returned, and say what is known of its labels so far.

        Returns: sums over the labelled frames of these outputs, so that they are averaged as the losses are:
            chance, the frames that a guess among K labels gets right; frequent, those that the most frequent
            label gets right; entropy, the cross-entropy of predicting how often each label occurs, in nats;
            entropy_at_most, that of predicting all alike, ln K a frame.
        """
        # float64, in which a year of frames is counted exactly
        counts = torch.stack([output["label_counts"][index] for output in outputs]).sum(0).double()
        if index in self._counts:
            counts = counts + self._counts[index]
        self._counts[index] = counts
        labelled = torch.stack([output["labelled"][index] for output in outputs]).sum()
        shares = (counts / counts.sum().clamp(min=1)).float()
        return {
            "chance": labelled / len(counts),
            "frequent": labelled * shares.max(),
            "entropy": labelled * torch.special.entr(shares).sum(),
            "entropy_at_most": labelled * math.log(len(counts)),
        }

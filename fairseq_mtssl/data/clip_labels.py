"""The cluster labels of clips, one a frame of the encoder, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.frames import IGNORED_LABEL, ConvLayer, conv_length


class FrameLabels(Protocol):
    """The labels of a whole manifest."""

    def frames(self, row: int, first: int, count: int) -> np.ndarray:
        """(count,) int64: the dictionary indices of so many frames of a row, from frame `first` on."""
        ...


@dataclass(frozen=True, eq=False)
class RowLabels:
    """The label sets of chosen rows of a manifest.

    rows: of the whole manifest, one for each row of a dataset; sets: labels of the whole manifest.
    """

    rows: np.ndarray
    sets: Sequence[FrameLabels]
    conv_layers: Sequence[ConvLayer]

    def of(self, index: int, samples: int, first_frame: int = 0) -> list[Tensor]:
        """(T,) long, one a label set: the labels of a clip of so many samples of a dataset's row."""
        frames = int(conv_length(samples, self.conv_layers))
        row = int(self.rows[index])
        return [torch.from_numpy(each.frames(row, first_frame, frames)) for each in self.sets]


def collate_labels(labels: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Labels of clips, each a list with (T,) long a label set -> (B, T) long a label set, padded with 1."""
    pad = torch.nn.utils.rnn.pad_sequence
    return [pad(list(each), batch_first=True, padding_value=IGNORED_LABEL) for each in zip(*labels)]

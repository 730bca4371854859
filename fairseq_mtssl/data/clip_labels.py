"""Cluster labels of clips, one per frame of the encoder, and their collation into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.frames import IGNORED_LABEL, ConvLayer, conv_length


class FrameLabels(Protocol):
    """The labels of all utterances of a manifest."""

    def frames(self, row: int, first: int, count: int) -> np.ndarray:
        """Return (count,) int64: the dictionary indices of `count` frames of a row, from frame `first` on."""
        ...


@dataclass(frozen=True, eq=False)
class RowLabels:
    """The label sets of a dataset that holds some rows of a manifest.

    rows: (N,) the manifest's row of each row of the dataset; sets: the label sets of the whole manifest;
    conv_layers: of the encoder, from which the number of frames follows.
    """

    rows: np.ndarray
    sets: Sequence[FrameLabels]
    conv_layers: Sequence[ConvLayer]

    def of(self, index: int, samples: int, first_frame: int = 0) -> list[Tensor]:
        """Return the labels of one clip, (T,) long per label set.

        index: the dataset's row; samples: length of the clip; first_frame: the frame where the clip begins.
        """
        frames = int(conv_length(samples, self.conv_layers))
        row = int(self.rows[index])
        return [torch.from_numpy(label_set.frames(row, first_frame, frames)) for label_set in self.sets]


def collate_labels(labels: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Pad the labels of B clips, each a list of (T,) long per label set, to (B, T) long per label set.

    Padding is IGNORED_LABEL (1).
    """
    pad = torch.nn.utils.rnn.pad_sequence
    return [pad(list(rows), batch_first=True, padding_value=IGNORED_LABEL) for rows in zip(*labels)]

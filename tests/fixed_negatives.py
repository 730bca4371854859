"""Negatives of wav2vec 2.0 that are the same in every process and in every pass."""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2


def next_frames(self: Wav2vec2, count: Tensor, start: Tensor) -> Tensor:
    """In place of `Wav2vec2._draw_negatives`: the masked frames that follow in the row, round and round."""
    own = torch.arange(len(count)) - start
    step = 1 + torch.arange(self.negatives)[None] % (count[:, None] - 1).clamp(min=1)
    return start[:, None] + (own[:, None] + step) % count[:, None]

"""Online targets: what the slow copy of the student makes of the unmasked input.

Source: Ma et al. 2023, arXiv 2211.07321, section 2.2, after data2vec (arXiv 2202.03555).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def instance_norm(x: Tensor, lengths: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance of each channel of each row over its valid frames, in 32 bits.

    x: (B, T, D); lengths: (B,) valid frames. Returns: (B, T, D) float32, zero at padding. With no padding
    it is `torch.nn.functional.instance_norm`; a row of one frame becomes zeros.
    """
    x = x.float()
    # (B,) -> (B, T, 1)
    valid = (torch.arange(x.size(1), device=x.device) < lengths.unsqueeze(1)).unsqueeze(-1)
    count = lengths.clamp(min=1).view(-1, 1, 1)
    centred = (x - (x * valid).sum(1, keepdim=True) / count) * valid
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + eps)


def layer_average(results: Sequence[Tensor], lengths: Tensor) -> Tensor:
    """The targets of each frame: the mean of several layers' results, each instance-normalised.

    results: (B, T, D) each; lengths: (B,) valid frames. Returns: (B, T, D) float32, zero at padding.
    """
    total = instance_norm(results[0], lengths)
    for result in results[1:]:
        total = total + instance_norm(result, lengths)
    return total / len(results)

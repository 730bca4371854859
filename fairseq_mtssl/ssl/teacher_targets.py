"""Online targets: the average of the instance-normalised layers of an EMA teacher.

Source: Ma et al. 2023, arXiv 2211.07321, section 2.2, after data2vec (arXiv 2202.03555).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def instance_norm(x: Tensor, lengths: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each channel of each row to zero mean and unit variance over its valid frames, in float32.

    x: (B, T, D); lengths: (B,) valid frames. Returns: (B, T, D) float32, zero at padding. Without padding it
    equals `torch.nn.functional.instance_norm`; a row of one frame becomes zeros.
    """
    centred, rstd = _centred(x, lengths, eps)
    return centred.mul_(rstd)


def layer_average(results: Sequence[Tensor], lengths: Tensor) -> Tensor:
    """Average the instance-normalised outputs of several layers, which gives the targets.

    results: per layer (B, T, D); lengths: (B,) valid frames. Returns: (B, T, D) float32, zero at padding.
    """
    total = instance_norm(results[0], lengths)
    for result in results[1:]:
        total.addcmul_(*_centred(result, lengths))
    return total.div_(len(results))


def _centred(x: Tensor, lengths: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Return x minus its mean, float32 and zero at padding, and 1 / standard deviation, (B, 1, D)."""
    count = lengths.clamp(min=1).view(-1, 1, 1)
    # (B,) -> (B, T, 1)
    padding = (torch.arange(x.size(1), device=x.device) >= lengths.unsqueeze(1)).unsqueeze(-1)
    # asking whether there is any padding would make the host wait for the GPU
    padded = x.is_cuda or bool(padding.any())
    x = x.to(torch.float32, copy=True)
    x = x.masked_fill_(padding, 0) if padded else x
    x -= x.sum(1, keepdim=True) / count
    x = x.masked_fill_(padding, 0) if padded else x
    return x, torch.rsqrt(x.square().sum(1, keepdim=True) / count + eps)

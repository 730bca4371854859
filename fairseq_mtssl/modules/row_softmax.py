"""Softmax and dropout of attention scores, and back, on a CPU: in one pass where the compiled part is."""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_mtssl.modules import native
from fairseq_mtssl.modules.dropout import Draws


def dropped_softmax_(scores: Tensor, scale: float, draws: Draws) -> Tensor:
    """Dropout of the softmax of scale · scores, (n, T, S), over S; in place."""
    return _both(scores, scores, scale, draws)


def softmax_and_dropped_(scores: Tensor, scale: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """The softmax of scale · scores, (n, T, S), in place, and dropout of it."""
    dropped = torch.empty_like(scores) if draws.rate > 0 else scores
    return scores, _both(scores, dropped, scale, draws)


def _both(scores: Tensor, dropped: Tensor, scale: float, draws: Draws) -> Tensor:
    numbers = draws.numbers(scores.shape) if draws.rate > 0 else None
    if native.ready(scores):
        native.softmax_dropout(scores, dropped, scale, numbers, draws.limits, draws.scale)
        return dropped
    torch.softmax(scores.mul_(scale), -1, out=scores)
    if numbers is None:
        return scores
    return draws.drop_(torch.mul(scores, draws.scale, out=dropped), numbers)


def softmax_backward_(grad: Tensor, weights: Tensor, dropped: Tensor, scale: float, draws: Draws) -> Tensor:
    """The gradient of the scores in place of that of `dropped`; both from `softmax_and_dropped_`."""
    if native.ready(grad, weights, dropped):
        native.softmax_dropout_backward(weights, dropped, grad, scale, draws.scale)
        return grad
    if weights is not dropped:
        grad = torch.where(dropped == 0, 0, grad * draws.scale)
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype).mul_(scale)

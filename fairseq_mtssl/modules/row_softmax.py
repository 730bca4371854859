"""Softmax and dropout of attention scores, and back, on a CPU: in one pass where the compiled part is."""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_mtssl.modules import native
from fairseq_mtssl.modules.dropout import Draws


def softmax_dropout(scores: Tensor, dropped: Tensor, scale: float, draws: Draws) -> Tensor:
    """Dropout of the softmax of scale · scores, (n, T, S), over S.

    dropped: (n, T, S), where to put it, beside the softmax in place of scores; or scores itself, which then
    holds only the former. Returns: dropped, or scores if there is no dropout.
    """
    if draws.rate == 0:
        dropped = scores
    if native.ready(scores, dropped):
        native.softmax_dropout(scores, dropped, scale, draws.drawn(scores.shape))
        return dropped
    torch.softmax(scores.mul_(scale), -1, out=scores)
    if draws.rate == 0:
        return scores
    return draws.drop_(torch.mul(scores, draws.scale, out=dropped), draws.numbers(scores.shape))


def softmax_dropout_backward_(
    grad: Tensor, weights: Tensor, dropped: Tensor, scale: float, draws: Draws
) -> Tensor:
    """The gradient of the scores in place of that of `dropped`; the rest: what `softmax_dropout` left."""
    if native.ready(grad, weights, dropped):
        native.softmax_dropout_backward(weights, dropped, grad, scale, draws.scale)
        return grad
    if weights is not dropped:
        grad.mul_(draws.scale).masked_fill_(dropped == 0, 0)
    return torch._softmax_backward_data(grad, weights, -1, grad.dtype, grad_input=grad).mul_(scale)

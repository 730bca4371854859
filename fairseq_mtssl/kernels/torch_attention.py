"""Attention with torch's own functions, which `fast_attention` uses if the C++ extension cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq_mtssl.kernels.dropout import DropoutMask


def fused(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Compute `fast_attention.attention` without dropout and with T queries per row."""
    steps = key.size(0)
    mask = None
    if lengths is not None:
        # (B, 1, 1, S): True at the keys to attend to; a softmax needs at least one
        mask = torch.arange(steps) < torch.tensor(lengths).clamp(min=1).view(-1, 1, 1, 1)
    # (T, B, H, d) -> (B, H, T, d) and back
    q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(2, 0, 1, 3)


def attend(query: Tensor, key: Tensor, value: Tensor, out: Tensor, dropout_mask: DropoutMask) -> None:
    """Write dropout(softmax(query · key / √d)) · value into out.

    query, out: (n, T, d); key, value: (n, S, d).
    """
    weights = _weights(query, key)
    _product(_dropped(weights, dropout_mask, weights), value, out)


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    dropout_mask: DropoutMask,
) -> None:
    """Write the gradients of query, key and value into grads. grad: gradient of the output of `attend`."""
    weights = _weights(query, key)
    dropped = _dropped(weights, dropout_mask, torch.empty_like(weights))
    _product(dropped.mT, grad, grads[2])
    slopes = _product(grad, value.mT)
    if dropout_mask.rate > 0:
        slopes.mul_(dropout_mask.scale).masked_fill_(dropped == 0, 0)
    torch._softmax_backward_data(slopes, weights, -1, slopes.dtype, grad_input=slopes)
    slopes.mul_(query.size(-1) ** -0.5)
    _product(slopes, key, grads[0])
    _product(slopes.mT, query, grads[1])


def _weights(query: Tensor, key: Tensor) -> Tensor:
    scores = _product(query, key.mT).mul_(query.size(-1) ** -0.5)
    return torch.softmax(scores, -1, out=scores)


def _dropped(weights: Tensor, dropout_mask: DropoutMask, out: Tensor) -> Tensor:
    """Apply dropout to weights; write the result into out, which may be weights. Without dropout: weights."""
    if dropout_mask.rate == 0:
        return weights
    return dropout_mask.drop_(
        torch.mul(weights, dropout_mask.scale, out=out), dropout_mask.numbers(weights.shape)
    )


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply matrices, (n, T, d) · (n, d, S) -> (n, T, S), and write the product into out if given."""
    if out is None:
        out = a.new_empty(a.size(0), a.size(1), b.size(2))
    if len(out) > 1:
        return out.copy_(torch.bmm(a, b))
    # mm takes its arguments in any memory layout, while bmm with a batch of one would copy them first
    torch.mm(a[0], b[0], out=out[0])
    return out

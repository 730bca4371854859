"""Attention by torch's own functions: `fast_attention` where the C++ extension cannot do it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq_mtssl.kernels.dropout import DropoutMask


def fused(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """As `fast_attention.attention`, without dropout."""
    steps = key.size(0)
    mask = None
    if lengths is not None:
        # (B, 1, 1, S): True where a key may be looked at; a softmax needs one at least
        mask = torch.arange(steps) < torch.tensor(lengths).clamp(min=1).view(-1, 1, 1, 1)
    # (T, B, H, d) -> (B, H, T, d) and back
    q, k, v = (each.permute(1, 2, 0, 3) for each in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(2, 0, 1, 3)


def attend(query: Tensor, key: Tensor, value: Tensor, out: Tensor, dropout_mask: DropoutMask) -> None:
    """out: dropout of softmax(query · key / √d), times value; (n, T, d), keys and values (n, S, d)."""
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
    """grads: of query, key and value, from that of what `attend` gave."""
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
    """Dropout of weights, in `out`, which may be weights; weights themselves where nothing is dropped."""
    if dropout_mask.rate == 0:
        return weights
    return dropout_mask.drop_(
        torch.mul(weights, dropout_mask.scale, out=out), dropout_mask.numbers(weights.shape)
    )


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """(n, T, d) · (n, d, S) -> (n, T, S), in `out` if that is given."""
    if out is None:
        out = a.new_empty(a.size(0), a.size(1), b.size(2))
    if len(out) > 1:
        return out.copy_(torch.bmm(a, b))
    # one matrix product takes its arguments as they lie, a batch of one would copy them first
    torch.mm(a[0], b[0], out=out[0])
    return out

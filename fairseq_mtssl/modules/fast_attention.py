"""Self-attention with dropout on a CPU, a few heads at a time.

With dropout, torch keeps three (T, T) arrays of each head for the backward pass; here a head's array is
computed, used and forgotten while it is in the cache, and computed again in the backward pass. Each core has
heads of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_mtssl.modules.dropout import Draws, new_seed
from fairseq_mtssl.modules.row_softmax import softmax_dropout, softmax_dropout_backward_
from fairseq_mtssl.modules.side_by_side import side_by_side

PIECE = 2**18
"""Attention weights that are worked on at a time, or one head's."""


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int] | None, rate: float
    ) -> Tensor:
        ctx.lengths, ctx.rate, ctx.seed = lengths, rate, new_seed() if rate > 0 else 0
        ctx.save_for_backward(query, key, value)
        out, scale = torch.empty_like(query), query.size(-1) ** -0.5

        def attend(piece: Piece) -> None:
            q, k, v, o = piece.queries(query), piece.keys(key), piece.keys(value), piece.queries(out)
            draws, scores = Draws(rate, ctx.seed + piece.number, q.dtype), _product(q, k.mT)
            _product(softmax_dropout(scores, scores, scale, draws), v, o)

        side_by_side(attend, pieces(query.shape, lengths))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        empty = torch.empty_like if ctx.lengths is None else torch.zeros_like
        grads = [empty(each) for each in (query, key, value)]
        scale = query.size(-1) ** -0.5

        def turn_back(piece: Piece) -> None:
            q, k, v, g = piece.queries(query), piece.keys(key), piece.keys(value), piece.queries(grad)
            draws, weights = Draws(ctx.rate, ctx.seed + piece.number, q.dtype), _product(q, k.mT)
            dropped = softmax_dropout(weights, torch.empty_like(weights), scale, draws)
            _product(dropped.mT, g, piece.keys(grads[2]))
            scores = softmax_dropout_backward_(_product(g, v.mT), weights, dropped, scale, draws)
            _product(scores, k, piece.queries(grads[0]))
            _product(scores.mT, q, piece.keys(grads[1]))

        side_by_side(turn_back, pieces(query.shape, ctx.lengths))
        return (*grads, None, None)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """(n, T, d) · (n, d, S) -> (n, T, S), in `out` if that is given."""
    if out is None:
        out = a.new_empty(a.size(0), a.size(1), b.size(2))
    if len(out) > 1:
        return out.copy_(torch.bmm(a, b))
    # one matrix product takes its arguments as they lie, a batch of one would copy them first
    torch.mm(a[0], b[0], out=out[0])
    return out


class Piece(NamedTuple):
    """Some heads of a row. number: counted from 0; valid: positions of the row that are not padding."""

    number: int
    row: int
    heads: slice
    valid: int

    def queries(self, x: Tensor) -> Tensor:
        """(T, B, H, d) -> (n, T, d)."""
        return x[:, self.row, self.heads].transpose(0, 1)

    def keys(self, x: Tensor) -> Tensor:
        """(T, B, H, d) -> (n, S, d), without padding."""
        return x[: self.valid, self.row, self.heads].transpose(0, 1)


def pieces(shape: Sequence[int], lengths: Sequence[int] | None) -> list[Piece]:
    """Those of (T, B, H, d); lengths: as for `attention`."""
    steps, rows, heads, _ = shape
    found: list[Piece] = []
    for row in range(rows):
        valid = steps if lengths is None else lengths[row]
        count = max(1, PIECE // (steps * valid))
        for head in range(0, heads, count):
            found.append(Piece(len(found), row, slice(head, head + count), valid))
    return found


def attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int] | None, rate: float
) -> Tensor:
    """Softmax of query · key / √d, dropped out, times value.

    query, key, value: (T, B, H, d), on a CPU, all of one type; lengths: of each row, the positions that are
    not padding, which must lie first; None: all; rate: of the dropout, 0 for none.
    Returns: (T, B, H, d), at padding what attends to the valid positions.
    """
    return _Attention.apply(query, key, value, lengths, rate)

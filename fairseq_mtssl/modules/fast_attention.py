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
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, cuts: list[Piece], rate: float
    ) -> Tensor:
        ctx.pieces, ctx.rate, ctx.seed = cuts, rate, new_seed() if rate > 0 else 0
        ctx.save_for_backward(query, key, value)
        out, scale = torch.empty_like(query), query.size(-1) ** -0.5

        def attend(piece: Piece) -> None:
            q, k, v, o = piece.queries(query), piece.keys(key), piece.keys(value), piece.queries(out)
            draws, scores = Draws(rate, ctx.seed + piece.number, q.dtype), _product(q, k.mT)
            _product(softmax_dropout(scores, scores, scale, draws), v, o)

        side_by_side(attend, cuts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        # of keys, those that are padding belong to no piece
        grads = [torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)]
        scale = query.size(-1) ** -0.5

        def turn_back(piece: Piece) -> None:
            q, k, v, g = piece.queries(query), piece.keys(key), piece.keys(value), piece.queries(grad)
            draws, weights = Draws(ctx.rate, ctx.seed + piece.number, q.dtype), _product(q, k.mT)
            dropped = softmax_dropout(weights, torch.empty_like(weights), scale, draws)
            _product(dropped.mT, g, piece.keys(grads[2]))
            scores = softmax_dropout_backward_(_product(g, v.mT), weights, dropped, scale, draws)
            _product(scores, k, piece.queries(grads[0]))
            _product(scores.mT, q, piece.keys(grads[1]))

        side_by_side(turn_back, ctx.pieces)
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
    """Some heads of a row. number: counted from 0; valid: positions of the row that are not padding; packed:
    where its queries lie, if those of all rows lie behind one another."""

    number: int
    row: int
    heads: slice
    valid: int
    packed: slice | None

    def queries(self, x: Tensor) -> Tensor:
        """(T, B, H, d), or (M, H, d) packed -> (n, T, d)."""
        part = x[:, self.row, self.heads] if self.packed is None else x[self.packed, self.heads]
        return part.transpose(0, 1)

    def keys(self, x: Tensor) -> Tensor:
        """(T, B, H, d) -> (n, S, d), without padding."""
        return x[: self.valid, self.row, self.heads].transpose(0, 1)


def pieces(
    shape: Sequence[int], lengths: Sequence[int] | None, counts: Sequence[int] | None = None
) -> list[Piece]:
    """Those of keys (T, B, H, d); lengths, counts: as for `attention`."""
    steps, rows, heads, _ = shape
    found: list[Piece] = []
    start = 0
    for row in range(rows):
        valid = steps if lengths is None else lengths[row]
        queries = steps if counts is None else counts[row]
        packed = None if counts is None else slice(start, start + queries)
        start += queries
        at_once = max(1, PIECE // max(1, queries * valid))
        for head in range(0, heads if queries > 0 else 0, at_once):
            found.append(Piece(len(found), row, slice(head, head + at_once), valid, packed))
    return found


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int] | None,
    rate: float,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Softmax of query · key / √d, dropped out, times value.

    query, key, value: (T, B, H, d), on a CPU, all of one type; lengths: of each row, the positions that are
    not padding, which must lie first; None: all; rate: of the dropout, 0 for none. counts: how many queries
    each row has, which then lie behind one another, (M, H, d); None: T.
    Returns: like query, at padding what attends to the valid positions.
    """
    return _Attention.apply(query, key, value, pieces(key.shape, lengths, counts), rate)

"""Self-attention with dropout on a CPU, a few heads at a time.

With dropout, torch keeps three (T, T) arrays of each head for the backward pass; here what a head needs is
computed, used and forgotten while it is in the cache, and computed again in the backward pass. Each core has
heads of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_mtssl.kernels import native, torch_attention
from fairseq_mtssl.kernels.dropout import DropoutMask, new_seed
from fairseq_mtssl.kernels.side_by_side import side_by_side

TILE = 2**18
"""Attention weights that torch works on at a time, or one head's."""
FUSED_FRAMES = 384
"""Positions up to which, without dropout, torch's fused attention takes less time than the C++ extension: 0.4
of it at 48 positions, 0.7 at 150, as much at 400 (one core, float32, heads of 32 and 64)."""
SHARES = 6
"""Of the C++ extension's work, for each core: few to hand out, enough for all cores to end together."""


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, cuts: list[Tile], rate: float, compiled: bool
    ) -> Tensor:
        ctx.tiles, ctx.rate, ctx.seed = cuts, rate, new_seed() if rate > 0 else 0
        ctx.compiled = compiled
        ctx.save_for_backward(query, key, value)
        out, attend = torch.empty_like(query), native.attend if compiled else torch_attention.attend

        def work(tile: Tile) -> None:
            given = (tile.queries(query), tile.keys(key), tile.keys(value), tile.queries(out))
            attend(*given, _dropout_of(ctx, tile, query.dtype))

        side_by_side(work, cuts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        # of keys, those that are padding belong to no tile
        grads = [torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)]
        attend_backward = native.attend_backward if ctx.compiled else torch_attention.attend_backward

        def work(tile: Tile) -> None:
            given = (tile.queries(query), tile.keys(key), tile.keys(value), tile.queries(grad))
            found = (tile.queries(grads[0]), tile.keys(grads[1]), tile.keys(grads[2]))
            attend_backward(*given, found, _dropout_of(ctx, tile, query.dtype))

        side_by_side(work, ctx.tiles)
        return (*grads, None, None, None)


def _dropout_of(ctx: Any, tile: Tile, dtype: torch.dtype) -> Any:
    """The dropout of a tile's weights, as the implementation of ctx takes it; the same in both passes."""
    mask = DropoutMask(ctx.rate, ctx.seed + tile.number, dtype)
    return mask.compiled() if ctx.compiled else mask


class Tile(NamedTuple):
    """Neighbouring heads of one row, which are computed together.

    number: of the first head, counted through all rows; valid: positions of the row that are not padding;
    packed: the row's queries among those of all rows, where these lie behind one another.
    """

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


def tiles(
    shape: Sequence[int],
    lengths: Sequence[int] | None,
    counts: Sequence[int] | None = None,
    at_once: int | None = None,
) -> list[Tile]:
    """The tiles of keys of this shape, (T, B, H, d).

    lengths, counts: as for `attention`; at_once: heads of a tile, by default as many as TILE allows.
    """
    steps, rows, heads, _ = shape
    found: list[Tile] = []
    start = 0
    for row in range(rows):
        valid = steps if lengths is None else max(1, lengths[row])  # a softmax needs a key
        queries = steps if counts is None else counts[row]
        packed = None if counts is None else slice(start, start + queries)
        start += queries
        some = at_once or max(1, TILE // max(1, queries * valid))
        for head in range(0, heads if queries > 0 else 0, some):
            found.append(Tile(row * heads + head, row, slice(head, head + some), valid, packed))
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
    compiled = native.takes(query, key, value)
    fits_fused = rate == 0 and counts is None and query.dtype == torch.float32
    if fits_fused and (not compiled or key.size(0) <= FUSED_FRAMES):
        return torch_attention.fused(query, key, value, lengths)
    _, rows, heads, _ = key.shape
    at_once = math.ceil(rows * heads / (SHARES * torch.get_num_threads())) if compiled else None
    return _Attention.apply(query, key, value, tiles(key.shape, lengths, counts, at_once), rate, compiled)

"""Self-attention with dropout on a CPU, computed for a few heads at a time.

With dropout, torch keeps three (T, T) arrays per head for the backward pass. Here the arrays of a head are
computed and used while they are in the cache, and computed again in the backward pass. Each core computes
its own heads.
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
"""Number of attention weights in a tile that torch computes; a tile has at least one head."""
FUSED_FRAMES = 384
"""Number of positions up to which torch's fused attention, without dropout, is faster than the C++ extension.

It takes 0.4 of the time at 48 positions, 0.7 at 150, as much at 400 (one core, float32, heads of 32 and 64).
"""
SHARES = 6
"""Number of tiles per core for the C++ extension: few are quick to start, several balance the cores."""


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: list[Tile], rate: float, compiled: bool
    ) -> Tensor:
        ctx.tiles, ctx.rate, ctx.seed = tiles, rate, new_seed() if rate > 0 else 0
        ctx.compiled = compiled
        ctx.save_for_backward(query, key, value)
        out, attend = torch.empty_like(query), native.attend if compiled else torch_attention.attend

        def work(tile: Tile) -> None:
            arrays = (tile.queries(query), tile.keys(key), tile.keys(value), tile.queries(out))
            attend(*arrays, _dropout_of(ctx, tile, query.dtype))

        side_by_side(work, tiles)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        # zeros, because no tile writes the gradients of keys and values at padding
        grads = [torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)]
        attend_backward = native.attend_backward if ctx.compiled else torch_attention.attend_backward

        def work(tile: Tile) -> None:
            arrays = (tile.queries(query), tile.keys(key), tile.keys(value), tile.queries(grad))
            gradients = (tile.queries(grads[0]), tile.keys(grads[1]), tile.keys(grads[2]))
            attend_backward(*arrays, gradients, _dropout_of(ctx, tile, query.dtype))

        side_by_side(work, ctx.tiles)
        return (*grads, None, None, None)


def _dropout_of(ctx: Any, tile: Tile, dtype: torch.dtype) -> Any:
    """Return the dropout mask of a tile, which is the same in both passes, as the implementation takes it."""
    mask = DropoutMask(ctx.rate, ctx.seed + tile.number, dtype)
    return mask.compiled() if ctx.compiled else mask


class Tile(NamedTuple):
    """Neighbouring heads of one row of the batch, which are computed together.

    number: number of the first head, counted through all rows; valid: number of the row's positions that are
    not padding; packed: the row's queries, if those of all rows are concatenated; None if they are not.
    """

    number: int
    row: int
    heads: slice
    valid: int
    packed: slice | None

    def queries(self, x: Tensor) -> Tensor:
        """Select the queries of the tile: (T, B, H, d), or (M, H, d) if packed -> (n, T, d) for n heads."""
        part = x[:, self.row, self.heads] if self.packed is None else x[self.packed, self.heads]
        return part.transpose(0, 1)

    def keys(self, x: Tensor) -> Tensor:
        """Select the keys of the tile without padding: (T, B, H, d) -> (n, S, d) for n heads."""
        return x[: self.valid, self.row, self.heads].transpose(0, 1)


def cut_into_tiles(
    shape: Sequence[int],
    lengths: Sequence[int] | None,
    counts: Sequence[int] | None = None,
    at_once: int | None = None,
) -> list[Tile]:
    """Cut the heads of a batch whose keys have this shape, (T, B, H, d), into tiles.

    lengths, counts: as in `attention`; at_once: number of heads per tile; None: as many as TILE allows.
    """
    steps, rows, heads, _ = shape
    tiles: list[Tile] = []
    start = 0
    for row in range(rows):
        valid = steps if lengths is None else max(1, lengths[row])  # a softmax needs at least one key
        queries = steps if counts is None else counts[row]
        packed = None if counts is None else slice(start, start + queries)
        start += queries
        size = at_once or max(1, TILE // max(1, queries * valid))
        for head in range(0, heads if queries > 0 else 0, size):
            tiles.append(Tile(row * heads + head, row, slice(head, head + size), valid, packed))
    return tiles


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int] | None,
    rate: float,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Compute dropout(softmax(query · key / √d)) · value.

    query, key, value: (T, B, H, d), on a CPU, all of one type; lengths: number of positions of each row
    before its padding; None: all positions are valid; rate: of dropout, 0 for none. counts: number of queries
    of each row, if the queries of all rows are concatenated, (M, H, d); None: T queries per row.
    Returns: a tensor of the shape of query; queries at padding attend to the valid positions.
    """
    compiled = native.takes(query, key, value)
    fits_fused = rate == 0 and counts is None and query.dtype == torch.float32
    if fits_fused and (not compiled or key.size(0) <= FUSED_FRAMES):
        return torch_attention.fused(query, key, value, lengths)
    _, rows, heads, _ = key.shape
    at_once = math.ceil(rows * heads / (SHARES * torch.get_num_threads())) if compiled else None
    tiles = cut_into_tiles(key.shape, lengths, counts, at_once)
    return _Attention.apply(query, key, value, tiles, rate, compiled)

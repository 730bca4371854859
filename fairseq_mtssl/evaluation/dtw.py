"""Dynamic time warping (DTW) of many pairs of tokens at once, normalised by the length of the path."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ALIKE = 1.2  # the first tokens of a batch differ by less than this factor in length
BATCH_CELLS = 2**15  # pairs of a batch × rows: large enough to hide the cost of calls, and fits into a cache
GPU_BATCH_CELLS = 2**22


def dtw(flat: Tensor, starts: Tensor, strides: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Warp pairs of tokens whose frame distances lie anywhere in one buffer.

    flat: (E,) float32, finite; the distance of frames i, j of pair p is flat[starts[p] + i · strides[p] + j].
    starts, strides: (P,) int64; rows, columns: (P,) int64, frames of the two tokens, each ≥ 1.
    Returns: (P,) float32: c[end] / path length, with c[i, j] = d[i, j] + min(left, diagonal, up). The path
        takes the diagonal if it is ≤ both others, else left if ≤ up, else up.
    Source: the ABX of Libri-Light, Kahn et al. 2020, arXiv 1912.07875.
    """
    distances = torch.empty(len(starts), dtype=torch.float32, device=flat.device)
    if not len(starts):
        return distances
    reach = int((rows.max() - 1) * strides.max() + columns.max())
    # short pairs read values past their end, but do not use them
    flat = torch.cat([flat, flat.new_zeros(reach)])
    classes = (rows.double().log() / math.log(ALIKE)).long()
    order = torch.argsort(classes * (columns.max() + 1) + columns, stable=True)
    _, counts = torch.unique_consecutive(classes[order], return_counts=True)
    limit = GPU_BATCH_CELLS if flat.is_cuda else BATCH_CELLS
    for alike in order.split(counts.tolist()):  # sorted by columns, so that batches are similar in both
        for batch in alike.split(max(1, limit // int(rows[alike].max()))):
            distances[batch] = _batch(flat, starts[batch], strides[batch], rows[batch], columns[batch])
    return distances


def _batch(flat: Tensor, starts: Tensor, strides: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute `dtw` of pairs of similar sizes, one anti-diagonal after the other."""
    tall, wide = int(rows.max()), int(columns.max())
    ends = rows + columns - 2
    first_end, last_end = int(ends.min()), int(ends.max())
    # anti-diagonal k holds the distances of frames i of the first and k − i of the second token
    places = starts + torch.arange(tall, device=flat.device).unsqueeze(1) * (strides - 1)  # (R, P)
    # costs and path lengths of three anti-diagonals; row 0 stands above the first frame and is never reached
    costs = [flat.new_full((tall + 1, len(starts)), torch.inf) for _ in range(3)]
    steps = [torch.zeros_like(costs[0]) for _ in range(3)]
    distances = torch.empty_like(costs[0][0])
    for k in range(last_end + 1):
        low, high = max(0, k - wide + 1), min(k, tall - 1) + 1
        distance = flat[k:].take(places[low:high])
        (cost, last, before), (step, last_step, step_before) = costs, steps
        if k == 0:
            cost[1], step[1] = distance[0], 1.0
        else:
            left, up, diagonal = last[low + 1 : high + 1], last[low:high], before[low:high]
            beside = torch.minimum(left, up)
            beside_step = torch.where(left <= up, last_step[low + 1 : high + 1], last_step[low:high])
            taken = torch.where(diagonal <= beside, step_before[low:high], beside_step)
            torch.add(taken, 1.0, out=step[low + 1 : high + 1])
            torch.add(torch.minimum(beside, diagonal), distance, out=cost[low + 1 : high + 1])
        if k >= first_end:
            done = torch.where(ends == k)[0]
            distances[done] = cost[rows[done], done] / step[rows[done], done]
        costs, steps = [before, cost, last], [step_before, step, last_step]
    return distances

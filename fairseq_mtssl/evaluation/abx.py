"""ABX phone discrimination: how often a token is nearer to one of another phone than to one of its own.

The error of a cell is the mean over its tokens (a, b, x) of 1[d(x, a) > d(x, b)] + ½ · 1[=], d being the
frame distance warped in time (`dtw.py`); chance is 50 %. Every pair of tokens is warped once and used by all
cells of its arm (`abx_cells.py`).
Source: Schatz et al. 2013, Interspeech; Kahn et al. 2020, arXiv 1912.07875.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.evaluation.abx_cells import (
    Cells,
    Groups,
    Subsampler,
    across_cells,
    make_groups,
    within_cells,
)
from fairseq_mtssl.evaluation.abx_items import Items, Spans, slice_items
from fairseq_mtssl.evaluation.dtw import dtw
from fairseq_mtssl.evaluation.frame_distance import FrameDistance, frame_distance
from fairseq_mtssl.evaluation.frame_store import allocate

CHUNK_DISTANCES = 2**25  # frame distances held at once, on a CPU; ten times as many on a GPU
TRIPLES = 2**22  # (a, b, x) compared at once


@dataclass(frozen=True, eq=False)
class AbxTask:
    """What is compared, known before any feature is.

    within, across: cells over the same groups. items: tokens in the file; dropped: those without frames.
    file: (U,) utterances, as places in `Items.files`, that hold a used token; kept: for each, the (T',)
    frames to keep, ascending. start, length: (K,) of the groups' tokens among all kept frames, utterance
    after utterance; −1 and 0 of a token in no cell.
    """

    within: Cells
    across: Cells
    items: int
    dropped: int
    file: np.ndarray
    kept: list[np.ndarray]
    start: np.ndarray
    length: np.ndarray

    @property
    def tokens(self) -> int:
        """Tokens that some cell compares."""
        return int((self.length > 0).sum())

    @property
    def frames(self) -> int:
        """Frames that are kept."""
        return sum(len(each) for each in self.kept)


@dataclass(frozen=True)
class AbxScore:
    """Errors in percent; None where there is no cell. 50 is chance."""

    within: float | None
    across: float | None

    def to_json(self) -> dict[str, float | None]:
        """Both, to six places."""
        return {
            name: None if error is None else round(error, 6)
            for name, error in (("within", self.within), ("across", self.across))
        }


def plan_abx(
    items: Items, rate_hz: float, frames: np.ndarray, slicing: str, context: str, sampling: Subsampler
) -> AbxTask:
    """Slice the items and choose the cells.

    frames: (F,) of each utterance of `items.files`. slicing: of SLICINGS. context: "within": A, B and X have
    the same neighbours; "any": neighbours do not matter.
    Raises: ManifestError if there is no cell.
    """
    rng = np.random.default_rng(sampling.seed)
    spans = slice_items(items, rate_hz, frames[items.file], slicing)
    neighbours = items.context if context == "within" else np.zeros_like(items.context)
    groups = make_groups(neighbours, items.speaker, items.phone, spans.kept, sampling.max_tokens, rng)
    within, across = within_cells(groups), across_cells(groups, sampling.max_x_across, rng)
    if not len(within) and not len(across):
        got = f"{int(spans.kept.sum())} of {len(items)} items have frames, and none make a cell"
        hint = "A cell needs two phones by one speaker in one context; try --context any."
        raise ManifestError(items.path, [f"{got}. {hint}"])
    used = within.used() | across.used()
    placed = _place(items, spans, groups.tokens, used)
    return AbxTask(within, across, len(items), int((~spans.kept).sum()), *placed)


def _place(
    items: Items, spans: Spans, tokens: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Which frames of which utterances to keep, and where each token then is. Tokens may overlap."""
    start, length = np.full(len(tokens), -1, dtype=np.int64), np.zeros(len(tokens), dtype=np.int64)
    rows = np.flatnonzero(used)
    file = items.file[tokens[rows]]
    rows = rows[np.argsort(file, kind="stable")]
    files, first = np.unique(items.file[tokens[rows]], return_index=True)
    kept, offset = [], 0
    for mine in np.split(rows, first[1:]):
        begin, end = spans.start[tokens[mine]], spans.end[tokens[mine]]
        # +1 where a token begins, −1 past its end: frames whose running sum is positive are covered
        edges = np.bincount(begin, minlength=end.max() + 1) - np.bincount(end, minlength=end.max() + 1)
        covered = np.cumsum(edges) > 0
        place = np.cumsum(covered) - 1
        start[mine], length[mine] = offset + place[begin], end - begin
        kept.append(np.flatnonzero(covered))
        offset += len(kept[-1])
    return files, kept, start, length


def collect_frames(
    plan: AbxTask, utterances: Iterable[np.ndarray], layers: int, dim: int, dtype: type
) -> np.ndarray:
    """(L, plan.frames, D): the frames that a plan keeps, layer after layer.

    utterances: (T, L, D) each, those of plan.file in their order. dtype: of the frames.
    """
    store = allocate((layers, plan.frames, dim), dtype)
    done = 0
    for kept, frames in zip(plan.kept, utterances, strict=True):
        # (T', L, D) -> (L, T', D)
        store[:, done : done + len(kept)] = frames[kept].transpose(1, 0, 2)
        done += len(kept)
    return store


def score_abx(
    plan: AbxTask, frames: Tensor, distance: str = "angular", device: torch.device | str = "cpu"
) -> AbxScore:
    """Both errors of one representation.

    frames: (plan.frames, D) float, or (plan.frames, 1) int for units, in the order of the plan.
    distance: of frame_distance.DISTANCES. Raises: ConfigError, as `frame_distance`.
    """
    with torch.inference_mode():
        between = frame_distance(frames.to(device), distance)
        found = [
            cells.average(cell_errors(cells, plan.start, plan.length, between))
            for cells in (plan.within, plan.across)
        ]
    return AbxScore(*found)


def cell_errors(cells: Cells, start: np.ndarray, length: np.ndarray, between: FrameDistance) -> np.ndarray:
    """(C,) float64: the error of each cell, 0 to 1. start, length: (K,) frames of the groups' tokens."""
    limit = CHUNK_DISTANCES * (10 if between.frames.is_cuda else 1)
    arm_cells = np.bincount(cells.arm, minlength=len(cells.arm_a))
    ends = np.concatenate([[0], np.cumsum(arm_cells)])
    found = np.empty(len(cells), dtype=np.float64)
    for low, high in _chunks(cells, length, limit):
        chunk = _Chunk(cells, low, high, start, length)
        mine = slice(ends[low], ends[high])
        found[mine] = chunk.errors(chunk.token_distances(between), cells.arm[mine] - low, cells.b[mine])
    return found


def _chunks(cells: Cells, length: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Arms low … high − 1 whose frame distances are about `limit`, or one arm alone."""
    groups = cells.groups
    ends = np.concatenate([[0], np.cumsum(length)])
    block = groups.block[cells.arm_a]
    wide = ends[(groups.block_token + groups.block_tokens)[block]] - ends[groups.block_token[block]]
    tall = ends[(groups.first + groups.size)[cells.arm_x]] - ends[groups.first[cells.arm_x]]
    number = np.cumsum(wide * tall) // limit
    low = 0
    for high in [*(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]:
        if high > low:
            yield low, high
        low = high


class _Chunk:
    """Neighbouring arms: the tokens of each X against all tokens of the block of its A.

    A row is a token of an X. `pairs` counts (row, token of the block) pairs row after row.
    """

    def __init__(self, cells: Cells, low: int, high: int, start: np.ndarray, length: np.ndarray) -> None:
        self.groups: Groups = cells.groups
        self.start, self.length = start, length
        self.a, self.x = cells.arm_a[low:high], cells.arm_x[low:high]
        groups = self.groups
        self.block = groups.block[self.a]
        self.size = groups.size[self.x]
        self.first_row = np.cumsum(self.size) - self.size
        self.arm = np.repeat(np.arange(high - low), self.size)
        self.row_token = _ranges(groups.first[self.x], self.size)
        self.row_block = self.block[self.arm]
        self.columns = groups.block_tokens[self.row_block]
        self.row_pair = np.cumsum(self.columns) - self.columns

    def token_distances(self, between: FrameDistance) -> Tensor:
        """(P,) float32 on the CPU: of each row to each token of its block."""
        flat, address, stride = self._frame_distances(between)
        row = np.repeat(np.arange(len(self.columns)), self.columns)
        column = _ranges(self.groups.block_token[self.row_block], self.columns)
        token = self.row_token[row]
        # within speaker, x and a come from one group: both orders are the same pair, the earlier in rows
        swapped = (token > column) & np.repeat((self.a == self.x)[self.arm], self.columns)
        swapped &= column >= np.repeat(self.groups.first[self.x][self.arm], self.columns)
        row = np.where(swapped, row - (token - column), row)
        token, column = np.where(swapped, column, token), np.where(swapped, token, column)
        arrays = (
            address[row] + self._in_block(column, self.row_block[row]),
            stride[row],
            self.length[token],
            self.length[column],
        )
        on_device = [torch.from_numpy(each).to(flat.device) for each in arrays]
        return dtw(flat, *on_device).cpu()

    def _in_block(self, token: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Frames of a block before a token of it."""
        before = np.cumsum(self.length) - self.length
        return before[token] - before[self.groups.block_token[block]]

    def _frame_distances(self, between: FrameDistance) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """One matrix a block, (frames of its rows, frames of the block), end to end.

        Returns: (E,) float32; (rows,) where each row begins in it; (rows,) the width of its matrix.
        """
        frames = torch.from_numpy(_ranges(self.start[self.row_token], self.length[self.row_token]))
        frames = frames.to(between.frames.device)
        row_frame = np.cumsum(self.length[self.row_token]) - self.length[self.row_token]
        ends = np.append(row_frame, len(frames))
        cuts = np.flatnonzero(np.diff(self.row_block)) + 1
        address, stride = np.empty_like(row_frame), np.empty_like(row_frame)
        found, offset = [], 0
        for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(self.row_block)]):
            block = self.row_block[low]
            first = self.groups.block_token[block]
            tokens = slice(first, first + self.groups.block_tokens[block])
            columns = torch.from_numpy(_ranges(self.start[tokens], self.length[tokens])).to(frames.device)
            matrix = between(frames[ends[low] : ends[high]], columns)
            address[low:high] = offset + (row_frame[low:high] - row_frame[low]) * len(columns)
            stride[low:high] = len(columns)
            found.append(matrix.reshape(-1))
            offset += matrix.numel()
        return torch.cat(found), address, stride

    def errors(self, distances: Tensor, arm: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(C,) float64 of cells, by arm and group B. distances: of `token_distances`."""
        groups = self.groups
        a, row = self.a[arm], self.first_row[arm]
        base, width = self.row_pair[row], self.columns[row]
        block_token = groups.block_token[self.block[arm]]
        to_a, to_b = (base + groups.first[group] - block_token for group in (a, b))
        sizes = np.stack([self.size[arm], groups.size[a], groups.size[b], a == self.x[arm]])
        order = np.lexsort(sizes)
        cuts = np.flatnonzero((np.diff(sizes[:, order]) != 0).any(axis=0)) + 1
        values = distances.numpy()
        found = np.empty(len(arm), dtype=np.float64)
        for alike in np.split(order, cuts):
            nx, na, nb, same = sizes[:, alike[0]].tolist()
            step = max(1, TRIPLES // (nx * na * nb))
            for cells in (alike[low : low + step] for low in range(0, len(alike), step)):
                rows = width[cells, None, None] * np.arange(nx)[:, None]  # (C, X, 1)
                near = values[to_a[cells, None, None] + rows + np.arange(na)]  # (C, X, A)
                far = values[to_b[cells, None, None] + rows + np.arange(nb)]  # (C, X, B)
                found[cells] = _errors(near, far, bool(same))
        return found


def _errors(near: np.ndarray, far: np.ndarray, same: bool) -> np.ndarray:
    """near: (C, X, A); far: (C, X, B) distances -> (C,) errors. same: X is A, and no token meets itself."""
    near, far = near[:, :, :, None], far[:, :, None, :]
    # halves: two for an error, one for a tie
    halves = (near > far).sum(axis=3, dtype=np.int64) + (near >= far).sum(axis=3, dtype=np.int64)
    if same:
        itself = np.arange(halves.shape[1])
        halves[:, itself, itself] = 0
    pairs = halves.shape[1] * (halves.shape[2] - same)
    return halves.sum(axis=(1, 2)) / (2.0 * pairs * far.shape[3])


def _ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, … (count[0] of them), then those of first[1], …"""
    begin = np.cumsum(count) - count
    return np.repeat(first - begin, count) + np.arange(int(count.sum()))


def best(scores: Iterable[tuple[str, float | None]]) -> str | None:
    """The name of the lowest error, the first on ties; None if there is none."""
    known = [(error, place, name) for place, (name, error) in enumerate(scores) if error is not None]
    return min(known)[2] if known else None


def format_table(scores: dict[str, AbxScore], plan: AbxTask, heading: str) -> str:
    """A row a representation, the best of each column marked, and every count."""
    lowest = [best((name, getattr(score, kind)) for name, score in scores.items()) for kind in _KINDS]
    width = max(len(heading), *(len(name) for name in scores))
    lines = [
        f"cells: {len(plan.within)} within speaker, {len(plan.across)} across speakers; "
        f"tokens: {plan.tokens} in them, of {plan.items} items; dropped, having no frame: {plan.dropped}",
        f"{heading:<{width}} {'within %':>10}  {'across %':>10}" + ("   * best" if len(scores) > 1 else ""),
    ]
    for name, score in scores.items():
        cells = []
        for kind, winner in zip(_KINDS, lowest):
            error = getattr(score, kind)
            mark = "*" if len(scores) > 1 and name == winner else " "
            cells.append(f"{'-' if error is None else f'{error:.2f}':>10}{mark}")
        lines.append(f"{name:<{width}} {' '.join(cells)}".rstrip())
    return "\n".join(lines)


_KINDS = ("within", "across")


def to_json(scores: dict[str, AbxScore], plan: AbxTask) -> dict[str, Any]:
    """Errors in percent by name, the names of the best, and the counts."""
    return {
        "scores": {name: score.to_json() for name, score in scores.items()},
        "best": {kind: best((n, getattr(s, kind)) for n, s in scores.items()) for kind in _KINDS},
        "cells": {"within": len(plan.within), "across": len(plan.across)},
        "items": plan.items,
        "tokens": plan.tokens,
        "dropped": plan.dropped,
    }

"""ABX phone discrimination: how often a token is closer to a token of another phone than to one of its own.

The error of a cell is the mean over its tokens (a, b, x) of 1[d(x, a) > d(x, b)] + ½ · 1[d(x, a) = d(x, b)],
where d is the DTW distance (`dtw.py`); chance is 50 %. Each pair of tokens is warped once for all cells of
its arm (`abx_cells.py`).
Source: Schatz et al. 2013, Interspeech; Kahn et al. 2020, arXiv 1912.07875.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
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

CHUNK_DISTANCES = 2**25  # frame distances held in memory at once on a CPU; ten times as many on a GPU
TRIPLES = 2**22  # triples (a, b, x) compared at once


@dataclass(frozen=True, eq=False)
class AbxTask:
    """The cells to compare and the frames they need, which are known before any features.

    within, across: cells over the same groups. items: number of tokens in the item file; dropped: number of
    those without frames. file: (U,) indices in `Items.files` of the utterances with tokens in cells;
    kept: for each of these, the (T',) frames that tokens cover, ascending.
    start, length: (K,) first frame and number of frames of the groups' tokens, counted in the kept frames of
    all utterances in turn; −1 and 0 for a token in no cell.
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
        """Number of tokens in cells."""
        return int((self.length > 0).sum())

    @property
    def frames(self) -> int:
        """Number of kept frames."""
        return sum(len(utterance) for utterance in self.kept)


@dataclass(frozen=True)
class AbxScore:
    """Errors in percent, None without cells; chance is 50."""

    within: float | None
    across: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return both errors, rounded to six decimals."""
        return {name: None if error is None else round(error, 6) for name, error in asdict(self).items()}


def plan_abx(
    items: Items, rate_hz: float, frames: np.ndarray, slicing: str, context: str, sampling: Subsampler
) -> AbxTask:
    """Slice the items and choose the cells.

    frames: (F,) number of frames of each utterance of `items.files`. slicing: one of SLICINGS.
    context: with "within" A, B and X have the same neighbouring phones; with "any" neighbours do not matter.
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
    """Return `AbxTask.file`, `kept`, `start` and `length`; frames shared by several tokens are kept once.

    tokens: (K,) rows of the item file; used: (K,) bool, the tokens in cells.
    """
    start, length = np.full(len(tokens), -1, dtype=np.int64), np.zeros(len(tokens), dtype=np.int64)
    rows = np.flatnonzero(used)
    file = items.file[tokens[rows]]
    rows = rows[np.argsort(file, kind="stable")]
    files, first = np.unique(items.file[tokens[rows]], return_index=True)
    kept, offset = [], 0
    for in_file in np.split(rows, first[1:]):
        begin, end = spans.start[tokens[in_file]], spans.end[tokens[in_file]]
        # +1 where a token begins, −1 after its end: frames whose running sum is positive are covered
        edges = np.bincount(begin, minlength=end.max() + 1) - np.bincount(end, minlength=end.max() + 1)
        covered = np.cumsum(edges) > 0
        place = np.cumsum(covered) - 1
        start[in_file], length[in_file] = offset + place[begin], end - begin
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
    task: AbxTask, frames: Tensor, distance: str = "angular", device: torch.device | str = "cpu"
) -> AbxScore:
    """Measure both errors of one representation.

    frames: (task.frames, D) float, or (task.frames, 1) int for units: the task's kept frames in order.
    distance: one of frame_distance.DISTANCES. Raises: ConfigError as `frame_distance` does.
    """
    with torch.inference_mode():
        between = frame_distance(frames.to(device), distance)
        errors = [
            cells.average(cell_errors(cells, task.start, task.length, between))
            for cells in (task.within, task.across)
        ]
    return AbxScore(*errors)


def cell_errors(cells: Cells, start: np.ndarray, length: np.ndarray, between: FrameDistance) -> np.ndarray:
    """Return (C,) float64: the error of each cell, 0 to 1. start, length: (K,) as in `AbxTask`."""
    limit = CHUNK_DISTANCES * (10 if between.frames.is_cuda else 1)
    arm_cells = np.bincount(cells.arm, minlength=len(cells.arm_a))
    ends = np.concatenate([[0], np.cumsum(arm_cells)])
    errors = np.empty(len(cells), dtype=np.float64)
    for low, high in _chunks(cells, length, limit):
        chunk = _Chunk(cells, low, high, start, length)
        part = slice(ends[low], ends[high])
        errors[part] = chunk.errors(chunk.token_distances(between), cells.arm[part] - low, cells.b[part])
    return errors


def _chunks(cells: Cells, length: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Split the arms into ranges (low, high) with about `limit` frame distances each, or one arm."""
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
    """Consecutive arms: compares the tokens of each X with all tokens of the block of its A.

    A row is a token of an X. Pairs of a row and a token of its block are ordered row by row.
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
        """Return (P,) float32 on the CPU: the distances of each row to each token of its block."""
        flat, address, stride = self._frame_distances(between)
        row = np.repeat(np.arange(len(self.columns)), self.columns)
        column = _ranges(self.groups.block_token[self.row_block], self.columns)
        token = self.row_token[row]
        # within speaker x and a are of one group, so (x, a) and (a, x) are one pair: the earlier token takes
        # the place of the row in both
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
        return dtw(flat, *(torch.from_numpy(array).to(flat.device) for array in arrays)).cpu()

    def _in_block(self, token: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return the number of frames of a block that precede a token of it."""
        before = np.cumsum(self.length) - self.length
        return before[token] - before[self.groups.block_token[block]]

    def _frame_distances(self, between: FrameDistance) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Compute a matrix of frame distances per block, (frames of its rows, frames of the block).

        Returns: (E,) float32, the flattened matrices; (rows,) the position of each row's first distance in
        it; (rows,) the width of its matrix.
        """
        frames = torch.from_numpy(_ranges(self.start[self.row_token], self.length[self.row_token]))
        frames = frames.to(between.frames.device)
        row_frame = np.cumsum(self.length[self.row_token]) - self.length[self.row_token]
        ends = np.append(row_frame, len(frames))
        cuts = np.flatnonzero(np.diff(self.row_block)) + 1
        address, stride = np.empty_like(row_frame), np.empty_like(row_frame)
        matrices, offset = [], 0
        for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(self.row_block)]):
            block = self.row_block[low]
            first = self.groups.block_token[block]
            tokens = slice(first, first + self.groups.block_tokens[block])
            columns = torch.from_numpy(_ranges(self.start[tokens], self.length[tokens])).to(frames.device)
            matrix = between(frames[ends[low] : ends[high]], columns)
            address[low:high] = offset + (row_frame[low:high] - row_frame[low]) * len(columns)
            stride[low:high] = len(columns)
            matrices.append(matrix.reshape(-1))
            offset += matrix.numel()
        return torch.cat(matrices), address, stride

    def errors(self, distances: Tensor, arm: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return (C,) float64: the errors of cells given by arm and group B.

        distances: from `token_distances`; arm: (C,) arms of this chunk; b: (C,) groups.
        """
        groups = self.groups
        a, row = self.a[arm], self.first_row[arm]
        base, width = self.row_pair[row], self.columns[row]
        block_token = groups.block_token[self.block[arm]]
        to_a, to_b = (base + groups.first[group] - block_token for group in (a, b))
        sizes = np.stack([self.size[arm], groups.size[a], groups.size[b], a == self.x[arm]])
        order = np.lexsort(sizes)
        cuts = np.flatnonzero((np.diff(sizes[:, order]) != 0).any(axis=0)) + 1
        values = distances.numpy()
        errors = np.empty(len(arm), dtype=np.float64)
        for alike in np.split(order, cuts):
            nx, na, nb, same = sizes[:, alike[0]].tolist()
            step = max(1, TRIPLES // (nx * na * nb))
            for cells in (alike[low : low + step] for low in range(0, len(alike), step)):
                rows = width[cells, None, None] * np.arange(nx)[:, None]  # (C, X, 1)
                near = values[to_a[cells, None, None] + rows + np.arange(na)]  # (C, X, A)
                far = values[to_b[cells, None, None] + rows + np.arange(nb)]  # (C, X, B)
                errors[cells] = _errors(near, far, bool(same))
        return errors


def _errors(near: np.ndarray, far: np.ndarray, same: bool) -> np.ndarray:
    """Return (C,) errors from distances near (C, X, A) and far (C, X, B).

    same: X and A are one group; the comparison of a token with itself is left out.
    """
    near, far = near[:, :, :, None], far[:, :, None, :]
    # an error counts two halves, a tie one
    halves = (near > far).sum(axis=3, dtype=np.int64) + (near >= far).sum(axis=3, dtype=np.int64)
    if same:
        itself = np.arange(halves.shape[1])
        halves[:, itself, itself] = 0
    pairs = halves.shape[1] * (halves.shape[2] - same)
    return halves.sum(axis=(1, 2)) / (2.0 * pairs * far.shape[3])


def _ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Concatenate the ranges first[i] … first[i] + count[i] − 1."""
    begin = np.cumsum(count) - count
    return np.repeat(first - begin, count) + np.arange(int(count.sum()))


def best(scores: Iterable[tuple[str, float | None]]) -> str | None:
    """Return the name of the lowest error, the first of equal ones; None if there is none."""
    known = [(error, name) for name, error in scores if error is not None]
    return min(known, key=lambda entry: entry[0])[1] if known else None


def format_table(scores: dict[str, AbxScore], task: AbxTask, heading: str) -> str:
    """Return a table with one row per representation, the best of each column marked, and all counts."""
    lowest = [best((name, getattr(score, kind)) for name, score in scores.items()) for kind in _KINDS]
    width = max(len(heading), *(len(name) for name in scores))
    lines = [
        f"cells: {len(task.within)} within speaker, {len(task.across)} across speakers; "
        f"tokens: {task.tokens} in them, of {task.items} items; dropped, having no frame: {task.dropped}",
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


def to_json(scores: dict[str, AbxScore], task: AbxTask) -> dict[str, Any]:
    """Return errors in percent by name, the names of the best, and the counts."""
    return {
        "scores": {name: score.to_json() for name, score in scores.items()},
        "best": {kind: best((n, getattr(s, kind)) for n, s in scores.items()) for kind in _KINDS},
        "cells": {"within": len(task.within), "across": len(task.across)},
        "items": task.items,
        "tokens": task.tokens,
        "dropped": task.dropped,
    }

"""ABX as it is written down, one token, one frame, one path at a time; nothing shared with the fast path."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

Frame = np.ndarray
Distance = Callable[[Frame, Frame], float]


class Token(NamedTuple):
    context: object
    speaker: object
    phone: object
    frames: np.ndarray


def angular(x: Frame, y: Frame) -> float:
    if not x.any() or not y.any():
        return 0.0 if not x.any() and not y.any() else 1.0
    x, y = x.astype(np.float64), y.astype(np.float64)
    cosine = float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))
    return math.acos(min(1.0, max(-1.0, float(np.float32(cosine))))) / math.pi


def euclidean(x: Frame, y: Frame) -> float:
    return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(x, y)))


def kl(x: Frame, y: Frame) -> float:
    ratios = [(float(p), float(q), math.log((float(p) + 1e-6) / (float(q) + 1e-6))) for p, q in zip(x, y)]
    return sum(0.5 * p * ratio - 0.5 * q * ratio for p, q, ratio in ratios)


def units(x: Frame, y: Frame) -> float:
    return float(x[0] != y[0])


def dtw(distances: np.ndarray) -> float:
    """distances: (R, C) -> the cost of the best path by its length, in float32 as its authors'."""
    rows, columns = distances.shape
    cost = np.full((rows + 1, columns + 1), np.inf, dtype=np.float32)
    for i, j in product(range(rows), range(columns)):
        best = min(cost[i, j], cost[i + 1, j], cost[i, j + 1]) if i or j else np.float32(0)
        cost[i + 1, j + 1] = np.float32(distances[i, j]) + best
    i, j, length = rows, columns, 1
    while i > 1 or j > 1:
        diagonal, left, up = cost[i - 1, j - 1], cost[i, j - 1], cost[i - 1, j]
        if i > 1 and j > 1 and diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif i == 1 or (j > 1 and left <= up):
            j -= 1
        else:
            i -= 1
        length += 1
    return float(cost[rows, columns] / np.float32(length))


def token_distance(x: np.ndarray, y: np.ndarray, distance: Distance) -> float:
    return dtw(np.array([[distance(p, q) for q in y] for p in x], dtype=np.float32))


def abx(tokens: Sequence[Token], distance: Distance) -> tuple[float | None, float | None]:
    """Within and across error in percent, of all cells."""
    groups: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for token in tokens:
        groups[token.context, token.speaker, token.phone].append(token.frames)
    within: dict[tuple, list[float]] = defaultdict(list)
    across: dict[tuple, list[float]] = defaultdict(list)
    for (c, s, a), (c2, s2, b) in product(groups, groups):
        if (c, s) != (c2, s2) or a == b:
            continue
        mine, other = groups[c, s, a], groups[c, s, b]
        if len(mine) > 1:
            within[a, b, s].append(cell(mine, other, mine, True, distance))
        for c3, t, a3 in groups:
            if (c3, a3) == (c, a) and t != s:
                across[a, b, s].append(cell(mine, other, groups[c, t, a], False, distance))
    return average(within), average(across)


def cell(
    a: list[np.ndarray], b: list[np.ndarray], x: list[np.ndarray], same: bool, distance: Distance
) -> float:
    errors = []
    for i, j in product(range(len(x)), range(len(a))):
        if same and i == j:
            continue
        # one pair of tokens of a group has one distance, whichever is x
        first, second = (a[j], x[i]) if same and j < i else (x[i], a[j])
        near = token_distance(first, second, distance)
        for far in (token_distance(x[i], each, distance) for each in b):
            errors.append(1.0 if near > far else 0.5 if near == far else 0.0)
    return sum(errors) / len(errors)


def average(cells: dict[tuple, list[float]]) -> float | None:
    pairs: dict[tuple, list[float]] = defaultdict(list)
    for (a, b, _), errors in cells.items():
        pairs[a, b].append(sum(errors) / len(errors))
    means = [sum(errors) / len(errors) for errors in pairs.values()]
    return 100 * sum(means) / len(means) if means else None

"""CTC read off its definition, one frame and one path at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

BLANK = 0


def collapse_slowly(frames: list[int]) -> list[int]:
    """The map B: first runs become one, then blanks go."""
    merged: list[int] = []
    for i, symbol in enumerate(frames):
        if i == 0 or symbol != frames[i - 1]:
            merged.append(symbol)
    return [symbol for symbol in merged if symbol != BLANK]


def best_sentence(
    log_probs: np.ndarray,
    read: Callable[[list[int]], tuple[str, ...] | None],
    score: Mapping[tuple[str, ...], float],
) -> tuple[str, ...]:
    """The sentence whose best path and own score sum highest; every path over the symbols is tried.

    log_probs: (T, V); read: collapsed symbols -> the words they spell, None if they spell none.
    """
    best, found = -math.inf, ()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        words = read(collapse_slowly(list(path)))
        if words in score:
            total = sum(float(log_probs[t, symbol]) for t, symbol in enumerate(path)) + score[words]
            if total > best:
                best, found = total, words
    return found

"""Contrastive losses by loops over Python floats: slow, and plain enough to read as the definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def both_directions(scores: Rows, image_ids: Sequence[int]) -> float:
    """−log of the softmax share of the pair among the allowed candidates, over images and captions.

    scores[i][j]: image i against speech j. A candidate of the same image that is not the pair itself
    is left out. Returns the mean over images plus the mean over captions, in nats.
    """
    size = len(scores)
    total = 0.0
    for i in range(size):
        allowed = [j for j in range(size) if j == i or image_ids[j] != image_ids[i]]
        total += _log_sum_exp([scores[i][j] for j in allowed]) - scores[i][i]
        total += _log_sum_exp([scores[j][i] for j in allowed]) - scores[i][i]
    return total / size


def margin_info_nce(speech: Rows, image: Rows, margin: float, image_ids: Sequence[int]) -> float:
    """The paper's L_AV: dot products, the margin taken off each pair's own score."""
    size = len(speech)
    scores = [[_dot(image[i], speech[j]) for j in range(size)] for i in range(size)]
    for i in range(size):
        scores[i][i] -= margin
    return both_directions(scores, image_ids)


def info_nce(speech: Rows, image: Rows, scale: float, image_ids: Sequence[int]) -> float:
    """Scaled dot products, no margin."""
    size = len(speech)
    return both_directions(
        [[scale * _dot(image[i], speech[j]) for j in range(size)] for i in range(size)], image_ids
    )


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))

"""Distances between frames: angular, euclidean, symmetric KL, and 0/1 between discrete units.

Inner products are summed in float64 and distances rounded to float32: matrix kernels add in an order that
depends on the position in the matrix, but equal frames must have equal distances at every position.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_mtssl.errors import ConfigError

DISTANCES = ("angular", "euclidean", "kl", "units")
EPSILON = 1e-6  # added to probabilities before a logarithm
SAME = 1e-12  # squared distances below this share of the squared norms are rounding errors, and count as 0
SUM_ERROR = 1e-3  # how much the sum of a distribution may differ from 1
BLOCK_ROWS = 65_536

Finish = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FrameDistance:
    """Computes distances between frames of one buffer; `frame_distance` makes it.

    frames: (F, D) float32, or (F, 1) int for units.
    terms: (F,) float64, the part of a distance that depends on one frame alone, such as its squared norm.
    """

    frames: Tensor
    terms: Tensor
    kind: str

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return distances (R, C) float32 of frames rows (R,) to frames columns (C,), int64 indices."""
        if self.kind == "units":
            return (self.frames[rows] != self.frames[columns].T).float()
        left, right = self.frames[rows].double(), self.frames[columns].double()
        if self.kind == "kl":
            # one product gives Σ p log q + q log p
            left, right = torch.cat([left, _log(left)], dim=1), torch.cat([_log(right), right], dim=1)
        row, column = self.terms[rows].unsqueeze(1), self.terms[columns].unsqueeze(0)
        return _FINISH[self.kind](left @ right.T, row, column)


def frame_distance(frames: Tensor, kind: str) -> FrameDistance:
    """Prepare a buffer of frames for one kind of distance.

    frames: (F, D) float, or (F, 1) int for "units". kind: one of DISTANCES:
        angular: arccos(x·y / |x||y|) / π; between a zero frame and another 1, between two zero frames 0;
        euclidean: |x − y|;
        kl: ½ Σ p log((p+ε)/(q+ε)) + ½ Σ q log((q+ε)/(p+ε)), ε = 1e-6;
        units: 0 for equal units, else 1.
    Raises: ConfigError for another kind, for NaN or infinity, and for frames that are not distributions (kl).
    """
    if kind not in DISTANCES:
        raise ConfigError("distance", [f"got {kind!r}, wanted one of {', '.join(DISTANCES)}"])
    if kind == "units":
        return FrameDistance(frames, frames.new_zeros(len(frames), dtype=torch.float64), kind)
    terms = [_terms(block.double(), kind) for block in frames.split(BLOCK_ROWS)]
    return FrameDistance(frames, torch.cat(terms), kind)


def _terms(block: Tensor, kind: str) -> Tensor:
    """Check a block of frames and return their `FrameDistance.terms`."""
    bad = torch.where(~torch.isfinite(block).all(dim=1))[0]
    if len(bad):
        hint = "The training has diverged, or this input is broken"
        raise ConfigError("features", [f"{len(bad)} frames hold NaN or infinity. {hint}"])
    if kind == "kl":
        if bool((block < 0).any()) or bool(((block.sum(1) - 1).abs() > SUM_ERROR).any()):
            got = "frames that are negative or do not sum to 1"
            raise ConfigError("kl", [f"{got}; wanted probabilities. Use the angular distance"])
        return (block * _log(block)).sum(1)
    squares = block.pow(2).sum(1)
    return squares if kind == "euclidean" else torch.where(squares > 0, squares.rsqrt(), 0.0)


def _log(frames: Tensor) -> Tensor:
    return (frames + EPSILON).log()


def _angular(product: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """product: inner products; row, column: 1 / norm, 0 for a zero frame."""
    cosine = product.mul_(row).mul_(column).float()
    angle = cosine.clamp_(-1.0, 1.0).acos_().div_(math.pi)
    zero_row, zero_column = row == 0, column == 0
    if bool(zero_row.any()) or bool(zero_column.any()):
        angle = torch.where(zero_row | zero_column, 1.0, angle)
        angle = torch.where(zero_row & zero_column, 0.0, angle)
    return angle


def _euclidean(product: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """product: inner products; row, column: squared norms."""
    scale = row + column
    squared = torch.add(scale, product, alpha=-2)
    return torch.where(squared > SAME * scale, squared, 0.0).sqrt().float()


def _kl(product: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """product: Σ p log q + q log p; row, column: Σ p log p."""
    doubled = row + column - product
    return torch.where(doubled > SAME * product.abs(), doubled / 2, 0.0).float()


_FINISH: dict[str, Finish] = {"angular": _angular, "euclidean": _euclidean, "kl": _kl}

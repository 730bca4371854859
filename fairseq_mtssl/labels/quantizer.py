"""The quantizer: gives frames the numbers of their nearest centroids."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import TargetError

BLOCK_ROWS = 8192


class Quantizer:
    """Gives each frame the number of its nearest centroid; of equally near ones, the lowest number.

    Distances are computed as ‖x‖² − 2x·c + ‖c‖² in float32. Where float32 cannot tell which of two centroids
    is nearer, float64 decides, so that labels do not depend on which frames are in one batch.
    centroids: (K, D) float32.
    """

    def __init__(self, centroids: np.ndarray, device: torch.device | str = "cpu") -> None:
        exact = torch.from_numpy(np.asarray(centroids, dtype=np.float64)).to(device)
        self._centre = exact.mean(0).float()
        self._exact = exact - self._centre  # shorter vectors, smaller errors
        self._fast = self._exact.float()
        self._squares = self._exact.pow(2).sum(1)
        self._longest = float(self._squares.max().sqrt())
        # bounds the rounding error of the difference of two distances: each has two sums of D terms
        self._error = 4 * (exact.size(1) + 4) * float(torch.finfo(torch.float32).eps)

    def __call__(self, features: np.ndarray | Tensor) -> np.ndarray:
        """(T, D) -> (T,) int64. Raises: TargetError for NaN, infinity or another D."""
        rows = torch.as_tensor(features)
        if rows.ndim != 2 or rows.size(1) != self._exact.size(1):
            got = f"shape {tuple(rows.shape)}, wanted (T, {self._exact.size(1)})"
            raise TargetError("features", [f"{got}. Take the codebook learned from these features."])
        blocks = [self._block(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)]
        return torch.cat(blocks).cpu().numpy() if blocks else np.zeros(0, dtype=np.int64)

    def _block(self, rows: Tensor) -> Tensor:
        rows = rows.to(self._exact.device)
        near = rows.float() - self._centre
        norms = near.pow(2).sum(1)
        if not bool(torch.isfinite(norms).all()):
            bad = int(torch.where(~torch.isfinite(norms))[0][0])
            raise TargetError("features", [f"frame {bad} holds NaN or infinity; the model has diverged."])
        if len(self._fast) == 1:
            return torch.zeros(len(rows), dtype=torch.long)
        distances = torch.addmm(self._squares.float(), near, self._fast.T, alpha=-2)
        best, labels = distances.min(1)
        second = distances.scatter_(1, labels.unsqueeze(1), torch.inf).amin(1)
        unsure = torch.where(second - best <= self._error * self._longest * (norms.sqrt() + self._longest))[0]
        if len(unsure):
            labels[unsure] = self._decide(rows[unsure].double() - self._centre)
        return labels

    def _decide(self, exact: Tensor) -> Tensor:
        """Decide in float64. exact: (n, D) centred frames. Equal distances go to the lowest number."""
        distances = torch.addmm(self._squares, exact, self._exact.T, alpha=-2)
        within = 1e-12 * self._exact.size(1) * (exact.pow(2).sum(1) + self._longest**2)
        tied = distances <= distances.min(1, keepdim=True).values + within.unsqueeze(1)
        return tied.int().argmax(1)  # the first of them

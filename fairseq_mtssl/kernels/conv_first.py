"""The first convolution of a waveform encoder, which is cheaper to compute again than to keep.

From one channel to many: of all layers it has the most outputs and the least arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_mtssl.kernels.conv_level import Level, Sums

Moments = tuple[Tensor, Tensor]
"""Mean (B, kernel) and covariance (B, kernel, kernel) of the samples under a row's valid outputs, float64."""


class FirstLevel:
    """Outputs of the first convolution, any stretch of them, and the gradients of its parameters.

    wave: (B · period + kernel,) float32, the rows of a batch behind one another, zeros at their ends; level:
    its parameters and shape; rows: B; frames: valid outputs of a row; moments: of no use here.
    """

    moments: Moments | None = None

    def __init__(
        self, wave: Tensor, level: Level, rows: int, frames: int, moments: Moments | None = None
    ) -> None:
        self.wave = wave
        self.level = level
        self.rows = rows
        self.valid = frames
        self.period = (len(wave) - level.shape.kernel) // rows

    def sums(self) -> Any:
        """Nothing added up yet, for `take`."""
        return Sums(self.level)

    def frames(self, start: int, stop: int) -> Tensor:
        """(n, kernel): the samples under outputs start … stop − 1, counted through all rows."""
        shape = self.level.shape
        return self.wave.as_strided((stop - start, shape.kernel), (shape.stride, 1), start * shape.stride)

    def values(self, start: int, stop: int) -> Tensor:
        """(n, C)."""
        frames, weight, bias = self.frames(start, stop).contiguous(), self.level.weight, self.level.bias
        return frames @ weight if bias is None else torch.addmm(bias, frames, weight)

    def take(self, sums: Any, start: int, stop: int, grad: Tensor) -> None:
        """Add to sums what the gradient of outputs start … stop − 1, (n, C), means to the parameters."""
        sums.add_product(slice(None), self.frames(start, stop).contiguous(), grad)
        sums.add_bias(grad)

    def gradients(self, sums: Any, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Of the level's parameters, in the shapes and types in which they were given."""
        found: list[Tensor | None] = sums.gradients(like)
        return found


class RowSums:
    """Of each row, products of samples and gradients, and the gradients, added up piece by piece."""

    def __init__(self, products: Tensor, totals: Tensor) -> None:
        self.products = products  # (B, kernel, C)
        self.totals = totals  # (B, C)

    def merge(self, other: RowSums) -> None:
        """Add what another one has added up."""
        self.products += other.products
        self.totals += other.totals


class GroupNormFirstLevel(FirstLevel):
    """The same with a norm over time of each channel after it (fairseq's `default` mode).

    The outputs are linear in the samples under them. So their mean and variance over a row follow from the
    mean (kernel,) and covariance (kernel, kernel) of those, and norm and convolution are one product with
    weights of each row; so it is with the gradients. All of that is computed in 64 bits.
    moments: from an earlier pass of the same waveforms.
    """

    def __init__(
        self, wave: Tensor, level: Level, rows: int, frames: int, moments: Moments | None = None
    ) -> None:
        super().__init__(wave, level, rows, frames)
        self.moments = self._moments() if moments is None else moments
        self.mean, self.covariance = self.moments
        self.weight = level.weight.double()
        # (B, k, k) · (k, C) -> (B, k, C): of the frames with the outputs
        self.shared = self.covariance @ self.weight
        self.rstd = ((self.shared * self.weight).sum(1) + level.shape.eps).rsqrt()  # (B, C)
        self.scale = self.rstd * level.norm_weight  # type: ignore[operator]
        scaled = self.weight * self.scale.unsqueeze(1)
        # A bias of the convolution is taken out again with the mean.
        shift = level.norm_bias - torch.einsum("bk,bkc->bc", self.mean, scaled)  # type: ignore[operator]
        self.scaled, self.shift = scaled.float(), shift.float()

    def sums(self) -> RowSums:
        """See FirstLevel."""
        zeros = [self.wave.new_zeros(each.shape, dtype=torch.float32) for each in (self.shared, self.rstd)]
        return RowSums(*zeros)

    def _moments(self) -> Moments:
        found = []
        for row in range(self.rows):
            first = row * self.period // self.level.shape.stride
            under = self.frames(first, first + self.valid).double()
            mean = under.mean(0)
            found.append((mean, under.t() @ under / self.valid - torch.outer(mean, mean)))
        means, covariances = zip(*found, strict=True)
        return torch.stack(means), torch.stack(covariances)

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Row, and the part of start … stop that lies in it."""
        period = self.period // self.level.shape.stride
        while start < stop:
            row = start // period
            end = min(stop, (row + 1) * period)
            yield min(row, self.rows - 1), start, end
            start = end

    def values(self, start: int, stop: int) -> Tensor:
        """(n, C), normed."""
        out = self.wave.new_empty(stop - start, self.level.channels)
        for row, first, last in self._stretches(start, stop):
            frames = self.frames(first, last).contiguous()
            torch.addmm(self.shift[row], frames, self.scaled[row], out=out[first - start : last - start])
        return out

    def take(self, sums: RowSums, start: int, stop: int, grad: Tensor) -> None:
        """grad: (n, C) of the normed outputs."""
        for row, first, last in self._stretches(start, stop):
            part = grad[first - start : last - start]
            sums.products[row] += self.frames(first, last).contiguous().t() @ part
            sums.totals[row] += part.sum(0, dtype=torch.float32)

    def gradients(self, sums: RowSums, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """See FirstLevel."""
        totals = sums.totals.double()
        # Σ (frame − mean) · grad, and Σ (output − mean) · grad
        products = sums.products.double() - self.mean.unsqueeze(2) * totals.unsqueeze(1)
        spread = (products * self.weight).sum(1)
        direct = self.scale.unsqueeze(1) * products
        through_variance = (self.scale * self.rstd.square() * spread).unsqueeze(1) * self.shared
        found = Sums(self.level)
        found.weight += (direct - through_variance).sum(0)
        found.add_norm((spread * self.rstd).sum(0), totals.sum(0))
        return found.gradients(like)

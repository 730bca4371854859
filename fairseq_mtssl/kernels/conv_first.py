"""The first convolution over waveforms, whose outputs are computed again in the backward pass and not kept.

It has more outputs than all other layers, and, with one input channel, the least arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_mtssl.kernels.conv_block import ConvBlock, GradAccumulators

Moments = tuple[Tensor, Tensor]
"""Mean (B, kernel) and covariance (B, kernel, kernel), float64, of the windows of samples of each row from
which its valid outputs are computed."""


class FirstConvBlock:
    """Computes tiles of the outputs of the first convolution, and the gradients of its parameters.

    wave: (B · period + kernel,) float32, the concatenated rows of a batch with zeros at their ends; block:
    parameters and shape; rows: B; frames: number of valid outputs per row; moments: only for a group norm.
    """

    moments: Moments | None = None

    def __init__(
        self, wave: Tensor, block: ConvBlock, rows: int, frames: int, moments: Moments | None = None
    ) -> None:
        self.wave = wave
        self.block = block
        self.rows = rows
        self.valid = frames
        self.period = (len(wave) - block.shape.kernel) // rows

    def accumulators(self) -> Any:
        """Return accumulators for `accumulate`, which are zero."""
        return GradAccumulators(self.block)

    def frames(self, start: int, stop: int) -> Tensor:
        """Return the samples under the outputs start … stop − 1, counted through all rows: (n, kernel)."""
        shape = self.block.shape
        return self.wave.as_strided((stop - start, shape.kernel), (shape.stride, 1), start * shape.stride)

    def values(self, start: int, stop: int) -> Tensor:
        """Compute the outputs start … stop − 1: (n, C)."""
        frames, weight, bias = self.frames(start, stop).contiguous(), self.block.weight, self.block.bias
        return frames @ weight if bias is None else torch.addmm(bias, frames, weight)

    def accumulate(self, accumulators: Any, start: int, stop: int, grad: Tensor) -> None:
        """Add the gradients of the parameters to accumulators. grad: (n, C), of outputs start … stop − 1."""
        accumulators.add_product(slice(None), self.frames(start, stop).contiguous(), grad)
        accumulators.add_bias(grad)

    def gradients(self, accumulators: Any, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients of the block's parameters, in the shapes and types of `like`."""
        return accumulators.gradients(like)


class RowGradAccumulators:
    """Sums over the tiles of each row: of the products of windows and gradients, and of the gradients."""

    def __init__(self, products: Tensor, totals: Tensor) -> None:
        self.products = products  # (B, kernel, C)
        self.totals = totals  # (B, C)

    def merge(self, other: RowGradAccumulators) -> None:
        """Add the sums of another instance."""
        self.products += other.products
        self.totals += other.totals


class GroupNormFirstBlock(FirstConvBlock):
    """The first convolution followed by a norm of each channel over time (fairseq's mode `default`).

    An output is a linear function of its window of samples. So the mean and variance of the outputs over a
    row follow from the mean (kernel,) and covariance (kernel, kernel) of the windows, and convolution and
    norm together are one product with different weights for each row. The same holds for the gradients.
    Moments and weights are computed in 64 bits.
    moments: those of an earlier pass of the same waveforms; None: compute them.
    """

    def __init__(
        self, wave: Tensor, block: ConvBlock, rows: int, frames: int, moments: Moments | None = None
    ) -> None:
        super().__init__(wave, block, rows, frames)
        self.moments = self._moments() if moments is None else moments
        self.mean, self.covariance = self.moments
        self.weight = block.weight.double()
        # (B, k, k) · (k, C) -> (B, k, C): the covariance of windows and outputs
        self.cross_covariance = self.covariance @ self.weight
        self.rstd = ((self.cross_covariance * self.weight).sum(1) + block.shape.eps).rsqrt()  # (B, C)
        self.scale = self.rstd * block.norm_weight  # type: ignore[operator]
        scaled = self.weight * self.scale.unsqueeze(1)
        # a bias of the convolution has no effect, since the norm subtracts the mean
        shift = block.norm_bias - torch.einsum("bk,bkc->bc", self.mean, scaled)  # type: ignore[operator]
        self.scaled, self.shift = scaled.float(), shift.float()

    def accumulators(self) -> RowGradAccumulators:
        """See FirstConvBlock."""
        products = torch.zeros_like(self.cross_covariance, dtype=torch.float32)
        return RowGradAccumulators(products, torch.zeros_like(self.rstd, dtype=torch.float32))

    def _moments(self) -> Moments:
        means, covariances = [], []
        for row in range(self.rows):
            first = row * self.period // self.block.shape.stride
            windows = self.frames(first, first + self.valid).double()
            mean = windows.mean(0)
            means.append(mean)
            covariances.append(windows.t() @ windows / self.valid - torch.outer(mean, mean))
        return torch.stack(means), torch.stack(covariances)

    def _rows_of(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Iterate over the rows to which the outputs start … stop − 1 belong: row, first output, end."""
        period = self.period // self.block.shape.stride
        while start < stop:
            row = start // period
            end = min(stop, (row + 1) * period)
            yield min(row, self.rows - 1), start, end
            start = end

    def values(self, start: int, stop: int) -> Tensor:
        """Compute the outputs start … stop − 1 after the norm: (n, C)."""
        out = self.wave.new_empty(stop - start, self.block.channels)
        for row, first, last in self._rows_of(start, stop):
            frames = self.frames(first, last).contiguous()
            torch.addmm(self.shift[row], frames, self.scaled[row], out=out[first - start : last - start])
        return out

    def accumulate(self, accumulators: RowGradAccumulators, start: int, stop: int, grad: Tensor) -> None:
        """Add the gradients to accumulators. grad: (n, C), of the outputs start … stop − 1 after the norm."""
        for row, first, last in self._rows_of(start, stop):
            part = grad[first - start : last - start]
            accumulators.products[row] += self.frames(first, last).contiguous().t() @ part
            accumulators.totals[row] += part.sum(0, dtype=torch.float32)

    def gradients(
        self, accumulators: RowGradAccumulators, like: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """See FirstConvBlock."""
        totals = accumulators.totals.double()
        # Σ (window − mean) · grad, and Σ (output − mean) · grad
        products = accumulators.products.double() - self.mean.unsqueeze(2) * totals.unsqueeze(1)
        output_products = (products * self.weight).sum(1)
        direct = self.scale.unsqueeze(1) * products
        slope = self.scale * self.rstd.square() * output_products
        through_variance = slope.unsqueeze(1) * self.cross_covariance
        gradients = GradAccumulators(self.block)
        gradients.weight += (direct - through_variance).sum(0)
        gradients.add_norm((output_products * self.rstd).sum(0), totals.sum(0))
        return gradients.gradients(like)

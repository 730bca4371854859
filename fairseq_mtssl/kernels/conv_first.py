"""The first convolution of a waveform encoder, which is cheaper to compute again than to keep.

From one channel to many: of all layers it has the most outputs and the least arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_mtssl.kernels.conv_block import ConvBlock, GradAccumulators

Moments = tuple[Tensor, Tensor]
"""Mean (B, kernel) and covariance (B, kernel, kernel) of the samples under a row's valid outputs, float64."""


class FirstConvBlock:
    """Outputs of the first convolution, any tile of them, and the gradients of its parameters.

    wave: (B · period + kernel,) float32, the rows of a batch behind one another, zeros at their ends; block:
    its parameters and shape; rows: B; frames: valid outputs of a row; moments: of no use here.
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
        """Gradients that are still zero, for `accumulate`."""
        return GradAccumulators(self.block)

    def frames(self, start: int, stop: int) -> Tensor:
        """(n, kernel): the samples under outputs start … stop − 1, counted through all rows."""
        shape = self.block.shape
        return self.wave.as_strided((stop - start, shape.kernel), (shape.stride, 1), start * shape.stride)

    def values(self, start: int, stop: int) -> Tensor:
        """(n, C)."""
        frames, weight, bias = self.frames(start, stop).contiguous(), self.block.weight, self.block.bias
        return frames @ weight if bias is None else torch.addmm(bias, frames, weight)

    def accumulate(self, accumulators: Any, start: int, stop: int, grad: Tensor) -> None:
        """Add the gradients of the parameters to accumulators. grad: (n, C), of outputs start … stop − 1."""
        accumulators.add_product(slice(None), self.frames(start, stop).contiguous(), grad)
        accumulators.add_bias(grad)

    def gradients(self, accumulators: Any, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients of the block's parameters, in the shapes and types of `like`."""
        found: list[Tensor | None] = accumulators.gradients(like)
        return found


class RowGradAccumulators:
    """Sums over the tiles of each row: of the products of samples and gradients, and of the gradients."""

    def __init__(self, products: Tensor, totals: Tensor) -> None:
        self.products = products  # (B, kernel, C)
        self.totals = totals  # (B, C)

    def merge(self, other: RowGradAccumulators) -> None:
        """Add the sums that another one holds."""
        self.products += other.products
        self.totals += other.totals


class GroupNormFirstBlock(FirstConvBlock):
    """The same with a norm over time of each channel after it (fairseq's `default` mode).

    The outputs are linear in the samples under them. So their mean and variance over a row follow from the
    mean (kernel,) and covariance (kernel, kernel) of those, and norm and convolution are one product with
    weights of each row; so it is with the gradients. All of that is computed in 64 bits.
    moments: from an earlier pass of the same waveforms.
    """

    def __init__(
        self, wave: Tensor, block: ConvBlock, rows: int, frames: int, moments: Moments | None = None
    ) -> None:
        super().__init__(wave, block, rows, frames)
        self.moments = self._moments() if moments is None else moments
        self.mean, self.covariance = self.moments
        self.weight = block.weight.double()
        # (B, k, k) · (k, C) -> (B, k, C): of the frames with the outputs
        self.shared = self.covariance @ self.weight
        self.rstd = ((self.shared * self.weight).sum(1) + block.shape.eps).rsqrt()  # (B, C)
        self.scale = self.rstd * block.norm_weight  # type: ignore[operator]
        scaled = self.weight * self.scale.unsqueeze(1)
        # A bias of the convolution is taken out again with the mean.
        shift = block.norm_bias - torch.einsum("bk,bkc->bc", self.mean, scaled)  # type: ignore[operator]
        self.scaled, self.shift = scaled.float(), shift.float()

    def accumulators(self) -> RowGradAccumulators:
        """See FirstConvBlock."""
        zeros = [self.wave.new_zeros(each.shape, dtype=torch.float32) for each in (self.shared, self.rstd)]
        return RowGradAccumulators(*zeros)

    def _moments(self) -> Moments:
        found = []
        for row in range(self.rows):
            first = row * self.period // self.block.shape.stride
            under = self.frames(first, first + self.valid).double()
            mean = under.mean(0)
            found.append((mean, under.t() @ under / self.valid - torch.outer(mean, mean)))
        means, covariances = zip(*found, strict=True)
        return torch.stack(means), torch.stack(covariances)

    def _rows_of(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The rows that the outputs start … stop − 1 lie in, each with the part that lies in it."""
        period = self.period // self.block.shape.stride
        while start < stop:
            row = start // period
            end = min(stop, (row + 1) * period)
            yield min(row, self.rows - 1), start, end
            start = end

    def values(self, start: int, stop: int) -> Tensor:
        """(n, C), normed."""
        out = self.wave.new_empty(stop - start, self.block.channels)
        for row, first, last in self._rows_of(start, stop):
            frames = self.frames(first, last).contiguous()
            torch.addmm(self.shift[row], frames, self.scaled[row], out=out[first - start : last - start])
        return out

    def accumulate(self, accumulators: RowGradAccumulators, start: int, stop: int, grad: Tensor) -> None:
        """grad: (n, C) of the normed outputs."""
        for row, first, last in self._rows_of(start, stop):
            part = grad[first - start : last - start]
            accumulators.products[row] += self.frames(first, last).contiguous().t() @ part
            accumulators.totals[row] += part.sum(0, dtype=torch.float32)

    def gradients(
        self, accumulators: RowGradAccumulators, like: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """See FirstConvBlock."""
        totals = accumulators.totals.double()
        # Σ (frame − mean) · grad, and Σ (output − mean) · grad
        products = accumulators.products.double() - self.mean.unsqueeze(2) * totals.unsqueeze(1)
        output_products = (products * self.weight).sum(1)
        direct = self.scale.unsqueeze(1) * products
        through_variance = (self.scale * self.rstd.square() * output_products).unsqueeze(1) * self.shared
        found = GradAccumulators(self.block)
        found.weight += (direct - through_variance).sum(0)
        found.add_norm((output_products * self.rstd).sum(0), totals.sum(0))
        return found.gradients(like)

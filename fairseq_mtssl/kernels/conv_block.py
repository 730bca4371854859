"""A 1-D convolution, layer norm and GELU as matrix products in (frame, channel) order: forward and backward.

A convolution of kernel k and stride s over contiguous (frames, channels) is ⌈k/s⌉ products of strided views:
nothing is unfolded, nothing transposed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairseq_mtssl.kernels import native


@dataclass(frozen=True)
class Shape:
    """The sizes of a block and its norm: None, ``layer`` or, in the first block, ``group``."""

    kernel: int
    stride: int
    norm: str | None
    eps: float


@dataclass(frozen=True)
class ConvBlock:
    """A convolution with its norm and GELU, as a block of fairseq's ConvFeatureExtractionModel.

    weight: (kernel · C_in, C_out), ordered by tap; bias: (C_out,) or None; norm_weight, norm_bias: (C_out,)
    float32 or None.
    """

    shape: Shape
    weight: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None

    @classmethod
    def of(cls, shape: Shape, parameters: Sequence[Tensor | None], dtype: torch.dtype) -> ConvBlock:
        """parameters: weight (C_out, C_in, kernel), as nn.Conv1d's, and the rest; dtype: of the product."""
        weight, bias, norm_weight, norm_bias = parameters
        assert weight is not None
        # (C_out, C_in, k) -> (C_out, k · C_in) -> (k · C_in, C_out): columns lie together
        packed = weight.to(dtype).transpose(1, 2).reshape(weight.size(0), -1).t()
        wide = [None if each is None else each.float() for each in (norm_weight, norm_bias)]
        return cls(shape, packed, None if bias is None else bias.to(dtype), *wide)

    @property
    def channels_in(self) -> int:
        return self.weight.size(0) // self.shape.kernel

    @property
    def channels(self) -> int:
        return self.weight.size(1)

    @property
    def overlap(self) -> int:
        """Input frames that n outputs need beyond n · stride."""
        return max(self.shape.kernel - self.shape.stride, 0)

    def taps(self, x: Tensor, count: int) -> Iterator[tuple[Tensor, slice]]:
        """The inputs that `count` outputs read, in groups of as many taps of the kernel as the stride.

        x: (n, C_in), contiguous. Yields: a view (count, taps · C_in) of x, and the rows of the weight that it
        is multiplied with.
        """
        stride, channels = self.shape.stride, self.channels_in
        for first in range(0, self.shape.kernel, stride):
            width = min(stride, self.shape.kernel - first) * channels
            start = x.storage_offset() + first * channels
            view = x.as_strided((count, width), (stride * channels, 1), start)
            yield view, slice(first * channels, first * channels + width)

    def convolve(self, x: Tensor, out: Tensor) -> None:
        """x: (n · stride + overlap, C_in) -> out: (n, C_out)."""
        for number, (view, rows) in enumerate(self.taps(x, len(out))):
            if number > 0:
                out.addmm_(view, self.weight[rows])
            elif self.bias is None:
                torch.mm(view, self.weight[rows], out=out)
            else:
                torch.addmm(self.bias, view, self.weight[rows], out=out)

    def backward(self, x: Tensor, grad: Tensor, accumulators: GradAccumulators) -> Tensor:
        """The gradient of x, of its shape; that of weight and bias is added to accumulators.

        grad: (n, C_out), of the outputs.
        """
        count, stride = len(grad), self.shape.stride
        below = torch.empty_like(x)
        covered = count * stride if self.shape.kernel >= stride else 0
        below[covered:].zero_()
        parts = zip(self.taps(x, count), self.taps(below, count), strict=True)
        for number, ((view, rows), (into, _)) in enumerate(parts):
            weight = self.weight[rows].t()
            if number == 0:
                torch.mm(grad, weight, out=into)
            else:
                into.addmm_(grad, weight)
            accumulators.add_product(rows, view, grad)
        accumulators.add_bias(grad)
        return below

    def activate(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """(n, C_out) -> the same shape in that type: GELU of the norm of z, computed in 32 bits."""
        if native.ready(z) and dtype in native.TYPES:
            out = torch.empty_like(z, dtype=dtype)
            native.norm_gelu(z, self._norm, out)
            return out
        return torch.nn.functional.gelu(self._normed(z.float())[0]).to(dtype)

    def deactivate(self, z: Tensor, grad: Tensor, accumulators: Any, out: Tensor) -> Tensor:
        """The backward pass of `activate`: the gradient of z, which is written to out and returned.

        grad: (n, C_out), of the output of `activate`; the norm's gradients are added to accumulators.
        """
        if native.ready(z, grad, out):
            none = self._norm.weight is None
            into = self._norm if none else native.Norm(accumulators.norm_weight, accumulators.norm_bias, 0.0)
            native.norm_gelu_backward(z, self._norm, grad, out, into)
            return out
        wide = z.float()
        normed, *moments = self._normed(wide)
        below = torch.ops.aten.gelu_backward(grad.float(), normed)
        if moments:
            below, *parameters = torch.ops.aten.native_layer_norm_backward(
                below, wide, [self.channels], *moments, *self._norm[:2], [True, True, True]
            )
            accumulators.add_norm(*parameters)
        return out.copy_(below)

    @property
    def _norm(self) -> native.Norm:
        """The layer norm; a group norm is not applied here."""
        known = (self.norm_weight, self.norm_bias) if self.shape.norm == "layer" else (None, None)
        return native.Norm(*known, self.shape.eps)

    def _normed(self, z: Tensor) -> tuple[Tensor, ...]:
        """The layer norm of z in 32 bits, with the mean and the inverse deviation of each row; else (z,)."""
        if self._norm.weight is None:
            return (z,)
        return torch.native_layer_norm(z, [self.channels], *self._norm)


class GradAccumulators:
    """The gradients of a block's parameters, added up tile by tile in 32 bits."""

    def __init__(self, block: ConvBlock) -> None:
        self.block = block
        self.weight = block.weight.new_zeros(block.weight.shape, dtype=torch.float32)
        self.bias = None if block.bias is None else self.weight.new_zeros(block.channels)
        plain = block.norm_weight is None
        self.norm_weight = None if plain else self.weight.new_zeros(block.channels)
        self.norm_bias = None if plain else self.weight.new_zeros(block.channels)

    def add_product(self, rows: slice, view: Tensor, grad: Tensor) -> None:
        """view: (n, taps · C_in), grad: (n, C_out)."""
        if view.dtype == torch.float32:
            self.weight[rows].addmm_(view.t(), grad)
        else:
            self.weight[rows] += view.t() @ grad

    def add_bias(self, grad: Tensor) -> None:
        if self.bias is not None:
            self.bias += grad.sum(0, dtype=torch.float32)

    def add_norm(self, weight: Tensor, bias: Tensor) -> None:
        if self.norm_weight is not None and self.norm_bias is not None:
            self.norm_weight += weight
            self.norm_bias += bias

    def merge(self, other: GradAccumulators) -> None:
        """Add the gradients that another one holds."""
        for mine, theirs in zip(self._all(), other._all(), strict=True):
            if mine is not None and theirs is not None:
                mine += theirs

    def _all(self) -> list[Tensor | None]:
        return [self.weight, self.bias, self.norm_weight, self.norm_bias]

    def gradients(self, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients in the shapes and types of the parameters that `ConvBlock.of` was given."""
        # (k · C_in, C_out) -> (k, C_in, C_out) -> (C_out, C_in, k)
        weight = self.weight.view(self.block.shape.kernel, -1, self.block.channels).permute(2, 1, 0)
        return [
            None if grad is None or parameter is None else grad.to(parameter.dtype)
            for grad, parameter in zip([weight, *self._all()[1:]], like, strict=True)
        ]

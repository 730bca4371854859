"""A 1-D convolution, layer norm and GELU as matrix products in (frame, channel) order: forward and backward.

A convolution of kernel k and stride s over contiguous (frames, channels) is the sum of ⌈k/s⌉ products of
strided views, so that no input has to be unfolded or transposed.
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
    """The sizes of a block, and its norm, which is None, ``layer`` or, in the first block only, ``group``."""

    kernel: int
    stride: int
    norm: str | None
    eps: float


@dataclass(frozen=True)
class ConvBlock:
    """A convolution with its norm and GELU: a block of fairseq's ConvFeatureExtractionModel.

    weight: (kernel · C_in, C_out), the rows of one tap of the kernel after the other; bias: (C_out,) or None;
    norm_weight, norm_bias: (C_out,) float32 or None.
    """

    shape: Shape
    weight: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None

    @classmethod
    def of(cls, shape: Shape, parameters: Sequence[Tensor | None], dtype: torch.dtype) -> ConvBlock:
        """Make a block from the parameters of fairseq's modules.

        parameters: weight (C_out, C_in, kernel) and bias of the nn.Conv1d, weight and bias of the norm;
        dtype: of the matrix products.
        """
        weight, bias, norm_weight, norm_bias = parameters
        assert weight is not None
        # (C_out, C_in, k) -> (C_out, k · C_in) -> (k · C_in, C_out), columns contiguous
        packed = weight.to(dtype).transpose(1, 2).reshape(weight.size(0), -1).t()
        norm = [None if parameter is None else parameter.float() for parameter in (norm_weight, norm_bias)]
        return cls(shape, packed, None if bias is None else bias.to(dtype), *norm)

    @property
    def channels_in(self) -> int:
        return self.weight.size(0) // self.shape.kernel

    @property
    def channels(self) -> int:
        return self.weight.size(1)

    @property
    def overlap(self) -> int:
        """Number of input frames that n outputs need beyond n · stride."""
        return max(self.shape.kernel - self.shape.stride, 0)

    def taps(self, x: Tensor, count: int) -> Iterator[tuple[Tensor, slice]]:
        """Iterate over groups of taps of the kernel, `stride` taps each, with the inputs of `count` outputs.

        x: (n, C_in), contiguous. Yields: a view (count, taps · C_in) of x, and the rows of the weight by
        which it is multiplied.
        """
        stride, channels = self.shape.stride, self.channels_in
        for first in range(0, self.shape.kernel, stride):
            width = min(stride, self.shape.kernel - first) * channels
            start = x.storage_offset() + first * channels
            view = x.as_strided((count, width), (stride * channels, 1), start)
            yield view, slice(first * channels, first * channels + width)

    def convolve(self, x: Tensor, out: Tensor) -> None:
        """Write the convolution of x, (n · stride + overlap, C_in), into out, (n, C_out)."""
        for number, (view, rows) in enumerate(self.taps(x, len(out))):
            if number > 0:
                out.addmm_(view, self.weight[rows])
            elif self.bias is None:
                torch.mm(view, self.weight[rows], out=out)
            else:
                torch.addmm(self.bias, view, self.weight[rows], out=out)

    def backward(self, x: Tensor, grad: Tensor, accumulators: GradAccumulators) -> Tensor:
        """Return the gradient of x, and add those of weight and bias to the accumulators.

        x: the input of `convolve`; grad: (n, C_out), the gradient of its output.
        """
        count, stride = len(grad), self.shape.stride
        grad_x = torch.empty_like(x)
        written = count * stride if self.shape.kernel >= stride else 0  # by the first product
        grad_x[written:].zero_()
        groups = zip(self.taps(x, count), self.taps(grad_x, count), strict=True)
        for number, ((view, rows), (grad_view, _)) in enumerate(groups):
            weight = self.weight[rows].t()
            if number == 0:
                torch.mm(grad, weight, out=grad_view)
            else:
                grad_view.addmm_(grad, weight)
            accumulators.add_product(rows, view, grad)
        accumulators.add_bias(grad)
        return grad_x

    def activate(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """Return GELU(norm(z)), computed in 32 bits: (n, C_out) -> (n, C_out) of type dtype."""
        if native.ready(z) and dtype in native.TYPES:
            out = torch.empty_like(z, dtype=dtype)
            native.norm_gelu(z, self._norm, out)
            return out
        return torch.nn.functional.gelu(self._normed(z.float())[0]).to(dtype)

    def deactivate(self, z: Tensor, grad: Tensor, accumulators: Any, out: Tensor) -> Tensor:
        """Compute the backward pass of `activate`: write the gradient of z into out, and return it.

        grad: (n, C_out), the gradient of the output of `activate`. The gradients of the norm's parameters are
        added to the accumulators.
        """
        if native.ready(z, grad, out):
            sums = self._norm
            if sums.weight is not None:
                sums = native.Norm(accumulators.norm_weight, accumulators.norm_bias, 0.0)
            native.norm_gelu_backward(z, self._norm, grad, out, sums)
            return out
        z = z.float()
        normed, *moments = self._normed(z)
        grad_z = torch.ops.aten.gelu_backward(grad.float(), normed)
        if moments:
            grad_z, *parameters = torch.ops.aten.native_layer_norm_backward(
                grad_z, z, [self.channels], *moments, *self._norm[:2], [True, True, True]
            )
            accumulators.add_norm(*parameters)
        return out.copy_(grad_z)

    @property
    def _norm(self) -> native.Norm:
        """The layer norm; without weights for a group norm, which `GroupNormFirstBlock` applies."""
        weights = (self.norm_weight, self.norm_bias) if self.shape.norm == "layer" else (None, None)
        return native.Norm(*weights, self.shape.eps)

    def _normed(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the layer norm of z in 32 bits, with mean and 1 / deviation of each row; or (z,)."""
        if self._norm.weight is None:
            return (z,)
        return torch.native_layer_norm(z, [self.channels], *self._norm)


class GradAccumulators:
    """The gradients of a block's parameters, added up tile by tile in 32 bits."""

    def __init__(self, block: ConvBlock) -> None:
        self.block = block
        self.weight = block.weight.new_zeros(block.weight.shape, dtype=torch.float32)
        self.bias = None if block.bias is None else self.weight.new_zeros(block.channels)
        has_norm = block.norm_weight is not None
        self.norm_weight = self.weight.new_zeros(block.channels) if has_norm else None
        self.norm_bias = self.weight.new_zeros(block.channels) if has_norm else None

    def add_product(self, rows: slice, view: Tensor, grad: Tensor) -> None:
        """Add viewᵀ · grad to some rows of the weight. view: (n, taps · C_in); grad: (n, C_out)."""
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
        """Add the gradients of another instance."""
        for total, more in zip(self._all(), other._all(), strict=True):
            if total is not None and more is not None:
                total += more

    def _all(self) -> list[Tensor | None]:
        return [self.weight, self.bias, self.norm_weight, self.norm_bias]

    def gradients(self, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients in the shapes and types of `like`, the parameters given to `ConvBlock.of`."""
        # (k · C_in, C_out) -> (k, C_in, C_out) -> (C_out, C_in, k)
        weight = self.weight.view(self.block.shape.kernel, -1, self.block.channels).permute(2, 1, 0)
        return [
            None if grad is None or parameter is None else grad.to(parameter.dtype)
            for grad, parameter in zip([weight, *self._all()[1:]], like, strict=True)
        ]

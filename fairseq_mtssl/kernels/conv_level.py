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
    """What a layer is beside its parameters. norm: None, ``layer`` or ``group`` (the first layer only)."""

    kernel: int
    stride: int
    norm: str | None
    eps: float


@dataclass(frozen=True)
class Level:
    """A convolution and what follows it.

    weight: (kernel · C_in, C_out), ordered by tap; bias: (C_out,) or None; norm_weight, norm_bias: (C_out,)
    float32 or None.
    """

    shape: Shape
    weight: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None

    @classmethod
    def of(cls, shape: Shape, parameters: Sequence[Tensor | None], dtype: torch.dtype) -> Level:
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
    def spill(self) -> int:
        """Input frames that n outputs need beyond n · stride."""
        return max(self.shape.kernel - self.shape.stride, 0)

    def taps(self, x: Tensor, count: int) -> Iterator[tuple[Tensor, slice]]:
        """What `count` outputs read of x: (n, C_in), contiguous, in pieces of as many taps as the stride.

        Yields: a view (count, taps · C_in) of x, and the rows of the weight that it meets.
        """
        stride, channels = self.shape.stride, self.channels_in
        for first in range(0, self.shape.kernel, stride):
            width = min(stride, self.shape.kernel - first) * channels
            start = x.storage_offset() + first * channels
            view = x.as_strided((count, width), (stride * channels, 1), start)
            yield view, slice(first * channels, first * channels + width)

    def convolve(self, x: Tensor, out: Tensor) -> None:
        """x: (n · stride + spill, C_in) -> out: (n, C_out)."""
        for number, (view, rows) in enumerate(self.taps(x, len(out))):
            if number > 0:
                out.addmm_(view, self.weight[rows])
            elif self.bias is None:
                torch.mm(view, self.weight[rows], out=out)
            else:
                torch.addmm(self.bias, view, self.weight[rows], out=out)

    def backward(self, x: Tensor, grad: Tensor, sums: Sums) -> Tensor:
        """The gradient of x, as large as it; that of weight and bias goes to sums. grad: (n, C_out)."""
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
            sums.add_product(rows, view, grad)
        sums.add_bias(grad)
        return below

    def activate(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """(n, C_out) -> GELU of its norm in that type; computed in 32 bits."""
        if native.ready(z) and dtype in native.TYPES:
            out = torch.empty_like(z, dtype=dtype)
            native.norm_gelu(z, self._norm, out)
            return out
        return torch.nn.functional.gelu(self._normed(z.float())[0]).to(dtype)

    def deactivate(self, z: Tensor, grad: Tensor, sums: Any, out: Tensor) -> Tensor:
        """The gradient of z, out, in its type, from that of what `activate` made of it."""
        if native.ready(z, grad, out):
            none = self._norm.weight is None
            into = self._norm if none else native.Norm(sums.norm_weight, sums.norm_bias, 0.0)
            native.norm_gelu_backward(z, self._norm, grad, out, into)
            return out
        wide = z.float()
        normed, *moments = self._normed(wide)
        below = torch.ops.aten.gelu_backward(grad.float(), normed)
        if moments:
            below, *parameters = torch.ops.aten.native_layer_norm_backward(
                below, wide, [self.channels], *moments, *self._norm[:2], [True, True, True]
            )
            sums.add_norm(*parameters)
        return out.copy_(below)

    @property
    def _norm(self) -> native.Norm:
        """The layer norm; a group norm is not applied here."""
        known = (self.norm_weight, self.norm_bias) if self.shape.norm == "layer" else (None, None)
        return native.Norm(*known, self.shape.eps)

    def _normed(self, z: Tensor) -> tuple[Tensor, ...]:
        """z in 32 bits after its layer norm, and the means and the inverse deviations of rows; or z alone."""
        if self._norm.weight is None:
            return (z,)
        return torch.native_layer_norm(z, [self.channels], *self._norm)


class Sums:
    """The gradients of a level's parameters, added up piece by piece in 32 bits."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.weight = level.weight.new_zeros(level.weight.shape, dtype=torch.float32)
        self.bias = None if level.bias is None else self.weight.new_zeros(level.channels)
        plain = level.norm_weight is None
        self.norm_weight = None if plain else self.weight.new_zeros(level.channels)
        self.norm_bias = None if plain else self.weight.new_zeros(level.channels)

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

    def merge(self, other: Sums) -> None:
        """Add what another one has added up."""
        pairs = ((self.weight, other.weight), (self.bias, other.bias))
        for mine, theirs in (
            *pairs,
            (self.norm_weight, other.norm_weight),
            (self.norm_bias, other.norm_bias),
        ):
            if mine is not None and theirs is not None:
                mine += theirs

    def gradients(self, like: Sequence[Tensor | None]) -> list[Tensor | None]:
        """As the parameters were given: of their shapes and types."""
        # (k · C_in, C_out) -> (k, C_in, C_out) -> (C_out, C_in, k)
        weight = self.weight.view(self.level.shape.kernel, -1, self.level.channels).permute(2, 1, 0)
        found = [weight, self.bias, self.norm_weight, self.norm_bias]
        return [
            None if sum_ is None or parameter is None else sum_.to(parameter.dtype)
            for sum_, parameter in zip(found, like, strict=True)
        ]

"""Dropout from 16 random bits an element: on a CPU about a fifth of the time of torch's.

torch draws 53 bits for each element and makes a double of them; most of a transformer's dropout is that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_mtssl.kernels import native

MAX_RATE = 0.48
"""Up to here there are enough negative numbers among the 65,536 of a 16-bit float."""

_INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}


class DropoutMask:
    """Which elements to drop, the same ones again from the same seed.

    rate: chance of an element, [0, MAX_RATE], rounded to a multiple of 2⁻¹⁶. dtype: of what is dropped from.
    scale: what the others are multiplied with, so that the mean stays.
    """

    def __init__(self, rate: float, seed: int, dtype: torch.dtype) -> None:
        dropped = round(rate * 2**16)
        self.rate = rate
        self.scale = 2**16 / (2**16 - dropped)
        self.dtype = dtype
        self._seed = seed
        # Of 16 bits, read as floats: negative numbers from −∞ up; NaNs compare false. Else from the least up.
        first = _INFINITY[dtype] + 1 - dropped if dtype in _INFINITY else 0
        self._limits = (first - 2**15, first - 2**15 + dropped - 1)

    def numbers(self, shape: torch.Size) -> Tensor:
        """Random int16 of this shape, for `drop`; without the C++ extension numpy's."""
        count = shape.numel()
        bits = native.random_numbers(count, self._seed)
        if bits is None:
            generator = np.random.Generator(np.random.SFC64(self._seed))
            words = generator.integers(-(2**63), 2**63 - 1, (count + 3) // 4, np.int64, endpoint=True)
            bits = torch.from_numpy(words).view(torch.int16)[:count]
        return bits.view(shape)

    def compiled(self) -> native.Dropout:
        """For the C++ extension."""
        return native.Dropout(self._seed, *self._limits, self.scale if self.rate > 0 else 0.0)

    def drop(self, x: Tensor, numbers: Tensor) -> Tensor:
        """x with 0 where dropped, elsewhere as it is, not scaled."""
        return torch.ops.aten.threshold_backward(x, *self._compared(numbers))

    def drop_(self, x: Tensor, numbers: Tensor) -> Tensor:
        """`drop`, in place."""
        return torch.ops.aten.threshold_backward.grad_input(x, *self._compared(numbers), grad_input=x)

    def _compared(self, numbers: Tensor) -> tuple[Tensor, float]:
        """The numbers as x's type, and up to which of them is dropped."""
        if self.dtype not in _INFINITY:
            return numbers.to(self.dtype), float(self._limits[1])
        most = torch.tensor(self._limits[0], dtype=torch.int16).view(self.dtype)
        return numbers.view(self.dtype), float(most) if self.rate > 0 else float("-inf")


def new_seed() -> int:
    """From torch's CPU generator, which the trainer seeds anew at every update."""
    return int(torch.randint(2**62, ()))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.rate, ctx.seed = rate, new_seed()
        return _dropped(x, rate, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _dropped(grad, ctx.rate, ctx.seed), None


def _dropped(x: Tensor, rate: float, seed: int) -> Tensor:
    dropout_mask = DropoutMask(rate, seed, x.dtype)
    return dropout_mask.drop_(x * dropout_mask.scale, dropout_mask.numbers(x.shape))


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`; nothing but a seed is kept for the backward pass.

    x: on a CPU, in 32 or 16 bits; rate: [0, MAX_RATE].
    """
    return _Dropout.apply(x, rate) if training and rate > 0 else x

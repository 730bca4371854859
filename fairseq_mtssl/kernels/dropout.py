"""Dropout from 16 random bits per element, which on a CPU takes about a fifth of the time of torch's.

torch draws 53 bits per element and converts them to a double, which takes most of the time of its dropout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_mtssl.kernels import native

MAX_RATE = 0.48
"""Up to this rate the numbers to drop are negative 16-bit floats, of which there are enough."""

_INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}


class DropoutMask:
    """Determines which elements are dropped; the same seed gives the same elements.

    rate: probability of dropping an element, [0, MAX_RATE], rounded to a multiple of 2⁻¹⁶; dtype: of the
    tensors to which dropout is applied. scale: factor of kept elements, which preserves the mean.
    """

    def __init__(self, rate: float, seed: int, dtype: torch.dtype) -> None:
        dropped = round(rate * 2**16)
        self.rate = rate
        self.scale = 2**16 / (2**16 - dropped)
        self.dtype = dtype
        self._seed = seed
        # Elements are dropped whose random number lies in an interval of this size. In 16-bit types the
        # numbers are read as floats and the interval begins at −∞ (NaN compares false); else at the lowest
        # integer.
        first = _INFINITY[dtype] + 1 - dropped if dtype in _INFINITY else 0
        self._limits = (first - 2**15, first - 2**15 + dropped - 1)

    def numbers(self, shape: torch.Size) -> Tensor:
        """Draw random int16 numbers of this shape for `drop`, without the C++ extension with numpy."""
        count = shape.numel()
        bits = native.random_numbers(count, self._seed)
        if bits is None:
            generator = np.random.Generator(np.random.SFC64(self._seed))
            words = generator.integers(-(2**63), 2**63 - 1, (count + 3) // 4, np.int64, endpoint=True)
            bits = torch.from_numpy(words).view(torch.int16)[:count]
        return bits.view(shape)

    def compiled(self) -> native.Dropout:
        """Return the mask in the form that the C++ extension takes."""
        return native.Dropout(self._seed, *self._limits, self.scale if self.rate > 0 else 0.0)

    def drop(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return x with dropped elements set to 0; the others are not scaled."""
        return torch.ops.aten.threshold_backward(x, *self._compared(numbers))

    def drop_(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Do the same as `drop` in place."""
        return torch.ops.aten.threshold_backward.grad_input(x, *self._compared(numbers), grad_input=x)

    def _compared(self, numbers: Tensor) -> tuple[Tensor, float]:
        """Return the numbers in the type of x, and the largest number whose element is dropped."""
        if self.dtype not in _INFINITY:
            return numbers.to(self.dtype), float(self._limits[1])
        largest = torch.tensor(self._limits[0], dtype=torch.int16).view(self.dtype)
        return numbers.view(self.dtype), float(largest) if self.rate > 0 else float("-inf")


def new_seed() -> int:
    """Draw a seed from torch's CPU generator, which the trainer seeds at every update."""
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
    """Apply dropout as `torch.nn.functional.dropout`, keeping only a seed for the backward pass.

    x: on a CPU, in 32 or 16 bits; rate: [0, MAX_RATE].
    """
    return _Dropout.apply(x, rate) if training and rate > 0 else x

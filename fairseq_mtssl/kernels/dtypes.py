"""Types of numbers in mixed precision."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types that the implementations of this package compute in."""


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that matrices are multiplied in, given a factor x: that of autocast, else the type of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def residual_dtype(x: Tensor) -> torch.dtype:
    """The type that residuals are added up in: 32 bits with autocast, else the type of x."""
    return torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype

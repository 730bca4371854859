"""The types in which mixed precision computes matrix products and residuals."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The types in which the kernels can compute."""


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the type of a matrix product with x: that of autocast if it is on, else the type of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def residual_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which residuals are added up: float32 with autocast, else the type of x."""
    return torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype

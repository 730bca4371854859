"""How a side computes in a precision: ours by its own option, fairseq's modules by autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
"""What they are called here -> in ours."""


def computing_in(precision: str, device: torch.device | str) -> AbstractContextManager[None]:
    """bf16: products by autocast, weights in 32 bits; fp32: nothing is changed."""
    where = torch.device(device).type
    return torch.autocast(where, dtype=torch.bfloat16, enabled=precision == "bf16")

"""The base class of modules that are never trained: they stay in evaluation mode and keep their precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """A module in evaluation mode, whose weights keep their precision when the model around it is halved."""

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode for every value of mode."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow the model to other devices, but not to other precisions."""

        def same_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(same_precision, recurse)

"""What is computed with but never trained: always in evaluation mode, its precision its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """Stays in evaluation mode, and keeps the precision of its weights when the model around it is halved."""

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode whatever is asked."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves to other devices alone."""

        def same_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(same_precision, recurse)

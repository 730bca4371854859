"""Functions of a module and tensors by torch.compile, whose code all modules of a kind share.

Functions are compiled, never modules: names of weights, copies and pickles are those of the plain modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError

MAX_SHAPES = 16
"""Shapes of a batch for which code of their own is made; all others share code for any shape."""

OLDEST_TORCH = "2.5"
"""Before, torch made code for each layer anew."""

VARIANTS = 8 * MAX_SHAPES
"""Times that torch may make code of one function: for each shape student and teacher, padded or not, with and
without gradient of the input or autocast."""


class Compiled:
    """function(module, x, …) by torch.compile, with code made when a shape of x is first met.

    shapes: those with code of their own. Raises: ConfigError at the first call if torch is too old.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.shapes: set[torch.Size] = set()
        self._made: dict[bool, Callable[..., Any]] = {}

    def __call__(self, module: nn.Module, x: Tensor, *others: Any) -> Any:
        """What the function returns. Only within `settings`."""
        if len(self.shapes) < MAX_SHAPES:
            self.shapes.add(x.shape)
        any_shape = x.shape not in self.shapes
        if any_shape not in self._made:
            self._made[any_shape] = torch.compile(self.function, dynamic=any_shape)
        return self._made[any_shape](module, x, *others)


def settings() -> AbstractContextManager[Any]:
    """torch's settings for compiled functions that many modules share, here and nowhere else.

    Raises: ConfigError if torch is too old, or knows this Python not yet.
    """
    if torch.__version__ < OLDEST_TORCH:
        got = f"torch {torch.__version__}"
        raise ConfigError(
            "model.compile", [f"{got}: wanted {OLDEST_TORCH} or later; install it or give false"]
        )
    from torch import _dynamo as dynamo  # a second to import, and needed by nobody else

    if not dynamo.is_dynamo_supported():
        raise ConfigError("model.compile", ["this torch cannot compile with this Python; give false"])
    limit = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    # gradients are reduced between layers as they are; nothing within one needs to be cut for that
    found: AbstractContextManager[Any] = dynamo.config.patch({limit: VARIANTS, "optimize_ddp": False})
    return found

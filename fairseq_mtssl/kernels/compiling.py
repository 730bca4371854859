"""Compiles functions of a module and tensors with torch.compile, whose code all modules of a type share.

Modules themselves are not compiled, so that their weights' names, their copies and pickles do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError

MAX_SHAPES = 16
"""Number of shapes of a batch for which a function is compiled; further shapes share code for any shape."""

OLDEST_TORCH = "2.5"
"""Earlier versions compile the function for every layer again."""

VARIANTS = 8 * MAX_SHAPES
"""How often torch may compile one function: for each shape for student and teacher, with and without padding,
with and without gradient of the input or autocast."""


class Compiled:
    """A function(module, x, …) that torch.compile compiles when a shape of x first occurs.

    shapes: the shapes for which it was compiled. Raises: ConfigError at the first call if torch is too old.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.shapes: set[torch.Size] = set()
        self._compiled: dict[bool, Callable[..., Any]] = {}

    def __call__(self, module: nn.Module, x: Tensor, *others: Any) -> Any:
        """Call the compiled function. To be called within the context `settings` only."""
        if len(self.shapes) < MAX_SHAPES:
            self.shapes.add(x.shape)
        is_dynamic = x.shape not in self.shapes
        if is_dynamic not in self._compiled:
            self._compiled[is_dynamic] = torch.compile(self.function, dynamic=is_dynamic)
        return self._compiled[is_dynamic](module, x, *others)


def settings() -> AbstractContextManager[Any]:
    """Return the context of torch's settings for compiled functions that many modules share.

    Raises: ConfigError if torch is too old, or does not support this version of Python.
    """
    if torch.__version__ < OLDEST_TORCH:
        got = f"torch {torch.__version__}"
        raise ConfigError(
            "model.compile", [f"{got}: wanted {OLDEST_TORCH} or later; install it or give false"]
        )
    from torch import _dynamo as dynamo  # imported here, since it takes a second

    if not dynamo.is_dynamo_supported():
        raise ConfigError("model.compile", ["this torch cannot compile with this Python; give false"])
    limit = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    # optimize_ddp would split functions where gradients are reduced, but these are single layers already
    return dynamo.config.patch({limit: VARIANTS, "optimize_ddp": False})

"""Parts of the speech encoder by torch.compile: its convolutions, and one layer's forward for all layers.

Functions are compiled, never modules: names of weights, copies and pickles are those of the plain modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.kernels import conv_features
from fairseq_mtssl.kernels.fast_layers import layer_norm

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


# -- transformer layers


def layer_forward(layer: Any, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The layer's output and its layer result, what the feed-forward block gives: (T, B, D) each.

    layer: one that `fast_layers.is_plain`; x: (T, B, D); valid: (B, 1, 1, T) bool, False at padding; None:
    nothing is padded.
    """
    x = x + layer.dropout1(_self_attention(layer.self_attn, x, valid))
    x = layer_norm(layer.self_attn_layer_norm, x)
    result = layer.fc2(layer.dropout2(layer.activation_fn(layer.fc1(x))))
    return layer_norm(layer.final_layer_norm, x + layer.dropout3(result)), result


def _self_attention(module: Any, x: Tensor, valid: Tensor | None) -> Tensor:
    steps, rows, dim = x.shape
    split = (steps, rows, module.num_heads, dim // module.num_heads)
    # (T, B, D) -> (T, B, H, d) -> (B, H, T, d)
    q = module.q_proj(x).view(split).permute(1, 2, 0, 3)
    k = module.k_proj(x).view(split).permute(1, 2, 0, 3)
    v = module.v_proj(x).view(split).permute(1, 2, 0, 3)
    dropping = module.training or module.dropout_module.apply_during_inference
    rate = module.dropout_module.p if dropping else 0.0
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=valid, dropout_p=rate)
    # (B, H, T, d) -> (T, B, D)
    return module.out_proj(out.permute(2, 0, 1, 3).reshape(steps, rows, dim))


compiled_layer = Compiled(layer_forward)


# -- convolutions


def convolve(extractor: ConvFeatureExtractionModel, source: Tensor) -> Tensor:
    """fairseq's own forward: (B, S) -> (B, C, T)."""
    return ConvFeatureExtractionModel.forward(extractor, source)


compiled_convolutions = Compiled(convolve)


class CompiledConvFeatures(conv_features.ConvFeatures):
    """ConvFeatures, compiled in training where they would run fairseq's own forward: on a GPU."""

    def forward(self, source: Tensor) -> Tensor:
        """(B, S) -> (B, C, T)."""
        if not self.training or (self.fast and conv_features.can_run(self, source)):
            return super().forward(source)
        with settings():
            found: Tensor = compiled_convolutions(self, source)
        return found

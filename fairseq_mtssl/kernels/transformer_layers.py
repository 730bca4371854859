"""The implementations of fairseq's transformer layers behind one interface, and the choice between them.

`FairseqLayers` is fairseq's own forward. `KernelLayers` takes less time on a CPU; it uses the dropout and the
attention of this package. With 16-bit matrix products it adds residuals and computes layer norms in 32 bits,
because on a CPU torch's gradients of layer norms in 16 bits have errors of some per cent. `CompiledLayers`
uses torch.compile. All have the same parameters and give the same results within rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer
from fairseq.modules import gelu
from torch import Tensor, nn

from fairseq_mtssl.kernels import compiling, native
from fairseq_mtssl.kernels.dropout import MAX_RATE, dropout
from fairseq_mtssl.kernels.dtypes import DTYPES, product_dtype, residual_dtype
from fairseq_mtssl.kernels.fast_attention import attention


class LayerImplementation:
    """An implementation of fairseq's transformer layers, for one batch.

    padding: (B, T) bool, True at padding, which is at the end of each row; None without padding.
    """

    def __init__(self, padding: Tensor | None) -> None:
        self.padding = padding

    def settings(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which layers have to be computed."""
        return contextlib.nullcontext()

    def prepare(self, x: Tensor) -> Tensor:
        """Convert the first layer's input, (T, B, D), to this implementation's type and memory layout."""
        return x

    def forward(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a layer's output and its layer result (see `run_layer`): (T, B, D) each."""
        raise NotImplementedError

    def forward_masked(self, layer: Any, x: Tensor, mask: Tensor) -> Tensor:
        """Compute a layer's output where mask, (B, T) bool, is True at M positions: (M, D), row by row."""
        # (T, B, D) -> (B, T, D) -> (M, D)
        return self.forward(layer, x)[0].transpose(0, 1)[mask]


class FairseqLayers(LayerImplementation):
    """The layers' own forward."""

    def forward(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x, (_, result) = layer(x, self_attn_padding_mask=self.padding, need_weights=False)
        return x, result


class KernelLayers(LayerImplementation):
    """The functions of this package for CPUs."""

    def __init__(self, padding: Tensor | None) -> None:
        super().__init__(padding)
        self.lengths = None if padding is None else (~padding).sum(1).tolist()

    def prepare(self, x: Tensor) -> Tensor:
        return x.to(residual_dtype(x))

    def forward(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return run_layer(layer, x, self.lengths)

    def forward_masked(self, layer: Any, x: Tensor, mask: Tensor) -> Tensor:
        return run_layer(layer, x, self.lengths, mask)[0]


class CompiledLayers(LayerImplementation):
    """Functions compiled by torch.compile, with one memory layout for all layers, so that they share code."""

    def __init__(self, padding: Tensor | None) -> None:
        super().__init__(padding)
        # (B, T) -> (B, 1, 1, T)
        self.valid = None if padding is None else ~padding[:, None, None]

    def settings(self) -> contextlib.AbstractContextManager[Any]:
        return compiling.settings()

    def prepare(self, x: Tensor) -> Tensor:
        return x.to(residual_dtype(x)).contiguous()

    def forward(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return compiled_layer(layer, x, self.valid)


def choose(
    layers: Sequence[Any], x: Tensor, fast: bool, compiled: bool
) -> tuple[type[LayerImplementation], str]:
    """Choose the implementation of these layers; also return the reason for the choice.

    x: (T, B, D), their input; fast: as in `Compute`; compiled: whether the layers are to be compiled.
    """
    if compiled and not any(map(refusal_of_layer, layers)):
        return CompiledLayers, "model.compile is on, and this is training"
    if not fast:
        return FairseqLayers, "model.fast is off"
    for layer in layers:
        reason = refusal(layer, x)
        if reason is not None:
            return FairseqLayers, reason
    return KernelLayers, native.state()


def refusal_of_layer(layer: Any) -> str | None:
    """Return why a layer needs its own forward, or None for the post-norm layers of wav2vec 2.0 Base."""
    if type(layer) is not TransformerSentenceEncoderLayer:
        return f"{type(layer).__name__} is not fairseq's transformer layer"
    if layer.layer_norm_first:
        return "its layer norms come first"
    if layer._forward_hooks:
        return "it has forward hooks"
    if layer.self_attn.bias_k is not None or layer.self_attn.add_zero_attn:
        return "its attention has additional keys"
    return None


def refusal(layer: Any, x: Tensor) -> str | None:
    """Return why `KernelLayers` cannot compute a layer for an input like x, or None if it can."""
    reason = refusal_of_layer(layer)
    if reason is not None:
        return reason
    if x.device.type != "cpu":
        return f"the input is on {x.device.type}, not on a CPU"
    if x.dtype not in DTYPES or product_dtype(x) not in DTYPES:
        return f"it computes in {product_dtype(x)} on {x.dtype}"
    rates = [module.p for module in (layer.dropout1, layer.dropout2, layer.dropout3)]
    rate = max(*rates, layer.self_attn.dropout_module.p)
    return f"a dropout rate of {rate} is above {MAX_RATE}" if rate > MAX_RATE else None


# -- functions of this package


def run_layer(
    layer: Any, x: Tensor, lengths: Sequence[int] | None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute a layer's output and its layer result, (T, B, D) each.

    The layer result is the output of the feed-forward block before the residual connection.
    layer: fairseq's TransformerSentenceEncoderLayer; x: (T, B, D); lengths: number of positions of each row
    before its padding; None: all positions are valid. mask: (B, T) bool, computes both at the M masked
    positions only, (M, D) each, row by row; these attend to all valid positions.
    """
    # (T, B, D) -> (B, T, D) -> (M, D)
    kept = x if mask is None else x.transpose(0, 1)[mask]
    attended = self_attention(layer.self_attn, kept, x, lengths, mask)
    x = kept + dropout(attended, layer.dropout1.p, layer.dropout1.training)
    x = layer_norm(layer.self_attn_layer_norm, x)
    inner = layer.fc1(x)
    inner = nn.functional.gelu(inner) if layer.activation_fn is gelu else layer.activation_fn(inner)
    result = layer.fc2(dropout(inner, layer.dropout2.p, layer.dropout2.training))
    x = x + dropout(result, layer.dropout3.p, layer.dropout3.training)
    return layer_norm(layer.final_layer_norm, x), result


def self_attention(
    module: Any, queries: Tensor, x: Tensor, lengths: Sequence[int] | None, mask: Tensor | None
) -> Tensor:
    """Compute fairseq's MultiheadAttention of queries to x.

    module: the MultiheadAttention; queries: x, (T, B, D), or its masked positions, (M, D).
    Returns: a tensor of the shape of queries.
    """
    narrow = x.to(product_dtype(x))
    narrow_queries = narrow if mask is None else queries.to(narrow.dtype)
    inputs = ((module.q_proj, narrow_queries), (module.k_proj, narrow), (module.v_proj, narrow))
    # (…, D) -> (…, H, d)
    q, k, v = (projection(x).unflatten(-1, (module.num_heads, -1)) for projection, x in inputs)
    out = attention(
        q, k, v, lengths, _attention_dropout(module), None if mask is None else mask.sum(1).tolist()
    )
    # (…, H, d) -> (…, D)
    return module.out_proj(out.reshape(queries.shape))


def _attention_dropout(module: Any) -> float:
    """Return the present rate of dropout of a MultiheadAttention of fairseq."""
    is_on = module.training or module.dropout_module.apply_during_inference
    return module.dropout_module.p if is_on else 0.0


def layer_norm(norm: Any, x: Tensor) -> Tensor:
    """Apply a layer norm over the last dimension in the type of x, which a CPU computes in 32 bits."""
    size, weight, bias = norm.normalized_shape, norm.weight, norm.bias
    if x.dtype == torch.float32 or weight is None or x.device.type != "cpu":
        return norm(x)
    return nn.functional.layer_norm(x.float(), size, weight.float(), bias.float(), norm.eps).to(x.dtype)


# -- functions for torch.compile


def layer_forward(layer: Any, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the same as `run_layer`, in operations that torch.compile can fuse.

    valid: (B, 1, 1, T) bool, False at padding; None without padding.
    """
    x = x + layer.dropout1(_compiled_attention(layer.self_attn, x, valid))
    x = layer_norm(layer.self_attn_layer_norm, x)
    result = layer.fc2(layer.dropout2(layer.activation_fn(layer.fc1(x))))
    return layer_norm(layer.final_layer_norm, x + layer.dropout3(result)), result


def _compiled_attention(module: Any, x: Tensor, valid: Tensor | None) -> Tensor:
    steps, rows, dim = x.shape
    split = (steps, rows, module.num_heads, dim // module.num_heads)
    # (T, B, D) -> (T, B, H, d) -> (B, H, T, d)
    q = module.q_proj(x).view(split).permute(1, 2, 0, 3)
    k = module.k_proj(x).view(split).permute(1, 2, 0, 3)
    v = module.v_proj(x).view(split).permute(1, 2, 0, 3)
    rate = _attention_dropout(module)
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=valid, dropout_p=rate)
    # (B, H, T, d) -> (T, B, D)
    return module.out_proj(out.permute(2, 0, 1, 3).reshape(steps, rows, dim))


compiled_layer = compiling.Compiled(layer_forward)

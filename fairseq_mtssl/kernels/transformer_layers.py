"""The implementations of fairseq's transformer layers behind one interface, and the choice between them.

`FairseqLayers` is fairseq's own forward. `KernelLayers` takes less time on a CPU, with the dropout and the
attention of this package, which in turn use the C++ extension where it can and torch elsewhere. In 16 bits it
computes the sums of residuals and the layer norms in 32: the gradients of a layer norm in torch's own 16 bits
are off by some per cent on a CPU. `CompiledLayers` uses torch.compile. All have the same parameters, and give
the same numbers within rounding.
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
    """A way to compute transformer layers of fairseq for one batch.

    padding: (B, T) bool, True at padding, which lies at the end of each row; None: nothing is padded.
    """

    def __init__(self, padding: Tensor | None) -> None:
        self.padding = padding

    def settings(self) -> contextlib.AbstractContextManager[Any]:
        """The context that layers have to be computed in."""
        return contextlib.nullcontext()

    def prepare(self, x: Tensor) -> Tensor:
        """The input of the first layer, (T, B, D), in the type and memory layout that is wanted."""
        return x

    def forward(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's output, and the output of its feed-forward block before the residual: (T, B, D) each."""
        raise NotImplementedError

    def forward_masked(self, layer: Any, x: Tensor, mask: Tensor) -> Tensor:
        """(M, D): a layer's output at the positions where mask, (B, T) bool, is True, row by row."""
        # (T, B, D) -> (B, T, D) -> (M, D)
        return self.forward(layer, x)[0].transpose(0, 1)[mask]


class FairseqLayers(LayerImplementation):
    """The layers' own forward."""

    def forward(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x, (_, result) = layer(x, self_attn_padding_mask=self.padding, need_weights=False)
        return x, result


class KernelLayers(LayerImplementation):
    """The functions of this package, for a CPU."""

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
    """torch.compile, with one memory layout for all layers so that they share code."""

    def __init__(self, padding: Tensor | None) -> None:
        super().__init__(padding)
        # (B, T) -> (B, 1, 1, T)
        self.valid = None if padding is None else ~padding[:, None, None]

    def settings(self) -> contextlib.AbstractContextManager[Any]:
        return compiling.settings()

    def prepare(self, x: Tensor) -> Tensor:
        return x.to(residual_dtype(x)).contiguous()

    def forward(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = compiled_layer(layer, x, self.valid)
        return found


def choose(
    layers: Sequence[Any], x: Tensor, fast: bool, compiled: bool
) -> tuple[type[LayerImplementation], str]:
    """The implementation that computes these layers, and the reason why it is that one.

    x: (T, B, D), their input; fast, compiled: as of `Compute`, compiled only while training.
    """
    if compiled and not any(map(refusal_of_layer, layers)):
        return CompiledLayers, "model.compile is on, and this is training"
    if not fast:
        return FairseqLayers, "model.fast is off"
    for layer in layers:
        why = refusal(layer, x)
        if why is not None:
            return FairseqLayers, why
    return KernelLayers, native.state()


def refusal_of_layer(layer: Any) -> str | None:
    """Why nothing but its own forward can compute a layer; None for the post-norm layers of wav2vec 2.0."""
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
    """Why `KernelLayers` cannot compute a layer for an input like x; None: it can."""
    why = refusal_of_layer(layer)
    if why is not None:
        return why
    if x.device.type != "cpu":
        return f"the input is on {x.device.type}, not on a CPU"
    if x.dtype not in DTYPES or product_dtype(x) not in DTYPES:
        return f"it computes in {product_dtype(x)} on {x.dtype}"
    rates = [module.p for module in (layer.dropout1, layer.dropout2, layer.dropout3)]
    rate = max(*rates, layer.self_attn.dropout_module.p)
    return f"a dropout rate of {rate} is above {MAX_RATE}" if rate > MAX_RATE else None


# -- by the functions of this package


def run_layer(
    layer: Any, x: Tensor, lengths: Sequence[int] | None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A layer's output, and the output of its feed-forward block before the residual: (T, B, D) each.

    layer: fairseq's TransformerSentenceEncoderLayer; x: (T, B, D); lengths: positions of each row that are
    not padding, which must lie first; None: all. mask: (B, T) bool, to compute these positions only, (M, D)
    each, row by row; they attend to all that are not padding.
    """
    # (T, B, D) -> (B, T, D) -> (M, D)
    own = x if mask is None else x.transpose(0, 1)[mask]
    attended = self_attention(layer.self_attn, own, x, lengths, mask)
    x = own + dropout(attended, layer.dropout1.p, layer.dropout1.training)
    x = layer_norm(layer.self_attn_layer_norm, x)
    inner = layer.fc1(x)
    inner = nn.functional.gelu(inner) if layer.activation_fn is gelu else layer.activation_fn(inner)
    result = layer.fc2(dropout(inner, layer.dropout2.p, layer.dropout2.training))
    x = x + dropout(result, layer.dropout3.p, layer.dropout3.training)
    return layer_norm(layer.final_layer_norm, x), result


def self_attention(
    module: Any, own: Tensor, x: Tensor, lengths: Sequence[int] | None, mask: Tensor | None
) -> Tensor:
    """fairseq's MultiheadAttention of `own`, x or what a mask leaves of it, to x, (T, B, D); like own."""
    narrow = x.to(product_dtype(x))
    queries = narrow if mask is None else own.to(narrow.dtype)
    parts = ((module.q_proj, queries), (module.k_proj, narrow), (module.v_proj, narrow))
    # (…, D) -> (…, H, d)
    q, k, v = (proj(each).unflatten(-1, (module.num_heads, -1)) for proj, each in parts)
    dropping = module.training or module.dropout_module.apply_during_inference
    rate = module.dropout_module.p if dropping else 0.0
    out = attention(q, k, v, lengths, rate, None if mask is None else mask.sum(1).tolist())
    return module.out_proj(out.reshape(own.shape))


def layer_norm(norm: Any, x: Tensor) -> Tensor:
    """A layer norm over the last dimension in the type of x, on a CPU computed in 32 bits."""
    size, weight, bias = norm.normalized_shape, norm.weight, norm.bias
    if x.dtype == torch.float32 or weight is None or x.device.type != "cpu":
        return norm(x)
    return nn.functional.layer_norm(x.float(), size, weight.float(), bias.float(), norm.eps).to(x.dtype)


# -- by torch.compile


def layer_forward(layer: Any, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `run_layer`, in operations that torch.compile turns into few.

    valid: (B, 1, 1, T) bool, False at padding; None: nothing is padded.
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
    dropping = module.training or module.dropout_module.apply_during_inference
    rate = module.dropout_module.p if dropping else 0.0
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=valid, dropout_p=rate)
    # (B, H, T, d) -> (T, B, D)
    return module.out_proj(out.permute(2, 0, 1, 3).reshape(steps, rows, dim))


compiled_layer = compiling.Compiled(layer_forward)

"""fairseq's transformer layers, run in less time on a CPU: the same parameters, the same numbers.

Dropout and attention are those of `dropout` and `fast_attention`. In 16 bits the sums of residuals and the
layer norms are computed in 32: a layer norm's gradients in torch's own 16 bits are off by some per cent on a
CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer
from fairseq.modules import gelu
from torch import Tensor, nn

from fairseq_mtssl.kernels.dropout import MAX_RATE, dropout
from fairseq_mtssl.kernels.fast_attention import attention

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def product_type(x: Tensor) -> torch.dtype:
    """What a linear layer computes in, given x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def stream_type(x: Tensor) -> torch.dtype:
    """What residuals are added up in: with autocast 32 bits, else the model's type."""
    return torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype


def is_plain(layer: Any) -> bool:
    """Whether a layer's forward is that of fairseq's post-norm layers, without hooks or extra keys."""
    if type(layer) is not TransformerSentenceEncoderLayer or layer.layer_norm_first or layer._forward_hooks:
        return False
    return layer.self_attn.bias_k is None and not layer.self_attn.add_zero_attn


def can_run(layer: Any, x: Tensor) -> bool:
    """Whether `run_layer` does what the layer's own forward does: fairseq's post-norm layers, on a CPU."""
    if not is_plain(layer):
        return False
    rates = [module.p for module in (layer.dropout1, layer.dropout2, layer.dropout3)]
    rates.append(layer.self_attn.dropout_module.p)
    on_cpu = x.device.type == "cpu" and x.dtype in DTYPES and product_type(x) in DTYPES
    return on_cpu and max(rates) <= MAX_RATE


def run_layer(
    layer: Any, x: Tensor, lengths: Sequence[int] | None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The layer's output and its layer result, what the feed-forward block gives: (T, B, D) each.

    layer: fairseq's TransformerSentenceEncoderLayer; x: (T, B, D); lengths: positions of each row that are
    not padding, which must lie first; None: all. mask: (B, T) bool, to compute these positions only, (M, D)
    each, row by row; they attend to all that are not padding.
    """
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
    narrow = x.to(product_type(x))
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

"""Arithmetic of samples and frames: lengths, hops and receptive fields of convolution stacks.

A stack of convolutions is given as (channels, kernel, stride) triples, as in fairseq's
``conv_feature_layers``; an optional fourth number is the zero padding at both ends of the input. The stack of
wav2vec 2.0 makes one frame per 320 samples at 16 kHz (20 ms, 50 Hz), each over 400 samples (25 ms).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fairseq_mtssl.errors import ConfigError

ConvLayer = tuple[int, ...]
Length = TypeVar("Length", int, Tensor)

SAMPLE_RATE_HZ = 16_000

IGNORED_LABEL = 1
"""The label of frames without a label: fairseq's padding index."""

UNLABELLED = -100
"""The label of a frame in no phone, which torch's cross-entropy leaves out."""

SPECIAL_SYMBOLS = 4
"""Number of special symbols, such as padding, with which a label dictionary begins."""


def parse_conv_layers(text: str) -> list[ConvLayer]:
    """Read fairseq's ``conv_feature_layers`` notation.

    text: sums and products of lists of (channels, kernel, stride), as in
        ``[(512,10,5)] + [(512,3,2)] * 4``, or of (channels, kernel, stride, padding) with less padding than
        half the kernel. The text is parsed and never executed; names and calls are refused.
    Returns: the tuples, in order.
    Raises: ConfigError if the text is anything else or a number is not positive.
    """
    wrong = "wanted a list such as [(512,10,5)] + [(512,3,2)] * 4; correct conv_feature_layers"
    try:
        layers = _literal(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError) as error:
        raise ConfigError("conv_feature_layers", [f"got {text!r}, {wrong} ({error})"]) from error
    if not isinstance(layers, list) or not layers or not all(map(_is_layer, layers)):
        raise ConfigError("conv_feature_layers", [f"got {text!r}, {wrong}"])
    return layers


def _is_layer(layer: Any) -> bool:
    if not isinstance(layer, tuple) or len(layer) not in (3, 4):
        return False
    whole = all(isinstance(number, int) for number in layer)
    return whole and min(layer[:3]) > 0 and 0 <= sum(layer[3:]) < layer[1] / 2


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _literal(node.left) * _literal(node.right)
    return ast.literal_eval(node)


def conv_length(samples: Length, layers: Sequence[ConvLayer]) -> Length:
    """Return the number of frames that a convolution stack makes of `samples` samples.

    samples: an int, or an integer tensor of any shape.
    Returns: the same type; 0 for a clip that is shorter than one frame.
    """
    for _, kernel, stride, *padding in layers:
        samples = (samples - kernel + 2 * sum(padding)) // stride + 1
        samples = samples.clamp(min=0) if isinstance(samples, Tensor) else max(samples, 0)
    return samples


def min_samples(layers: Sequence[ConvLayer]) -> int:
    """Return the fewest samples that give one frame: the receptive field minus padding (wav2vec 2.0: 400)."""
    needed = 1
    for _, kernel, stride, *padding in reversed(layers):
        needed = (needed - 1) * stride + kernel - 2 * sum(padding)
    return needed


def hop_samples(layers: Sequence[ConvLayer]) -> int:
    """Return the samples between two frames: the product of the strides (320 for wav2vec 2.0)."""
    return math.prod(stride for _, _, stride, *_ in layers)


def frame_rate_hz(layers: Sequence[ConvLayer], sample_rate_hz: int = SAMPLE_RATE_HZ) -> float:
    """Return the frames per second (50.0 for wav2vec 2.0 at 16 kHz)."""
    return sample_rate_hz / hop_samples(layers)


def padding_mask(lengths: Tensor, total: int) -> Tensor:
    """Return (B, total) bool, True at the padding of a batch.

    lengths: (B,) number of valid positions of each row; total: number of positions.
    """
    return torch.arange(total, device=lengths.device).unsqueeze(0) >= lengths.unsqueeze(1)


def frame_count(samples: Length, hop_samples: int, window_samples: int) -> Length:
    """Return the number of frames of an analysis without padding: one per hop, each over a whole window.

    samples: an int, or an integer tensor of any shape. For a stack of convolutions with these `hop_samples`
    and `min_samples` it equals `conv_length`; for Kaldi's features it is `snip_edges=true`.
    Returns: the same type; 0 for a clip that is shorter than one window.
    """
    return conv_length(samples, [(1, window_samples, hop_samples)])

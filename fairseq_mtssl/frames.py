"""Samples, frames and seconds: the only convolution-length arithmetic of the package.

A stack of convolutions is given as (channels, kernel, stride) triples, the way fairseq writes
``conv_feature_layers``; a fourth number is the zeros put at both ends of what it reads. The wav2vec 2.0 stack
turns 16 kHz samples into one frame every 320 samples (20 ms, 50 Hz), each seeing 400 samples (25 ms).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fairseq_mtssl.errors import ConfigError

ConvLayer = tuple[int, ...]
Length = TypeVar("Length", int, Tensor)

SAMPLE_RATE_HZ = 16_000

IGNORED_LABEL = 1
"""fairseq's padding index: a frame without a label."""

UNLABELLED = -100
"""The label of a frame in no phone, which torch's cross-entropy leaves out."""

SPECIAL_SYMBOLS = 4
"""Classes of a label dictionary that are no label: the special symbols at its front, padding among them."""


def parse_conv_layers(text: str) -> list[ConvLayer]:
    """Read fairseq's ``conv_feature_layers`` notation.

    text: sums and products of lists of (channels, kernel, stride), as in
        ``[(512,10,5)] + [(512,3,2)] * 4``, or of (channels, kernel, stride, padding) with less padding than
        half the kernel; names and calls are refused, nothing is executed.
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
    """Frames that a convolution stack makes of so many samples.

    samples: an int, or an integer tensor of any shape.
    Returns: the same type; 0 where the clip is shorter than one frame.
    """
    for _, kernel, stride, *padding in layers:
        samples = (samples - kernel + 2 * sum(padding)) // stride + 1
        samples = samples.clamp(min=0) if isinstance(samples, Tensor) else max(samples, 0)
    return samples


def min_samples(layers: Sequence[ConvLayer]) -> int:
    """The fewest samples that give one frame: the receptive field but for padding (400 for wav2vec 2.0)."""
    needed = 1
    for _, kernel, stride, *padding in reversed(layers):
        needed = (needed - 1) * stride + kernel - 2 * sum(padding)
    return needed


def hop_samples(layers: Sequence[ConvLayer]) -> int:
    """Samples between two frames: the product of the strides (320 for wav2vec 2.0)."""
    hop = 1
    for _, _, stride, *_ in layers:
        hop *= stride
    return hop


def frame_rate_hz(layers: Sequence[ConvLayer], sample_rate_hz: int = SAMPLE_RATE_HZ) -> float:
    """Frames a second (50.0 for wav2vec 2.0 at 16 kHz)."""
    return sample_rate_hz / hop_samples(layers)


def padding_mask(lengths: Tensor, total: int) -> Tensor:
    """Which positions of a padded batch lie past the end.

    lengths: (B,) valid positions of each row; total: columns.
    Returns: (B, total) bool, True at padding.
    """
    return torch.arange(total, device=lengths.device).unsqueeze(0) >= lengths.unsqueeze(1)


def frame_count(samples: Length, hop_samples: int, window_samples: int) -> Length:
    """Frames of unpadded analysis: one every hop, each over a whole window.

    samples: an int, or an integer tensor of any shape. With the `hop_samples` and `min_samples` of a stack of
    convolutions this is `conv_length`; for Kaldi's features it is `snip_edges=true`.
    Returns: the same type; 0 where the clip is shorter than one window.
    """
    return conv_length(samples, [(1, window_samples, hop_samples)])

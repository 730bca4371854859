"""How many floating-point operations an update of MT4SSL needs: its matrix products and convolutions."""

from __future__ import annotations

from typing import Any

from fairseq_mtssl.frames import conv_length, parse_conv_layers


def update_operations(cfg: Any, classes: int, clips: int, samples: int, masked: int) -> float:
    """Of the student's forward and backward pass and the teacher's forward pass.

    cfg: our Mt4sslConfig. samples: of each clip; masked: frames of the batch that are predicted. A product
    of (m, k) and (k, n) counts 2 · m · k · n; its backward pass twice that, but for the first convolution,
    whose input needs no gradient.
    """
    frames, layers = samples, 0.0
    below, first = 1, 0.0
    convs = parse_conv_layers(cfg.conv_feature_layers)
    for place, (channels, kernel, stride) in enumerate(convs):
        frames = conv_length(frames, [(channels, kernel, stride)])
        operations = 2.0 * clips * frames * kernel * below * channels
        first, layers = (operations, 0.0) if place == 0 else (first, layers + operations)
        below = channels
    dim = cfg.encoder_embed_dim
    projection = 2.0 * clips * frames * below * dim if below != dim else 0.0
    kernel = max(3, cfg.conv_pos // cfg.pos_conv_depth) if cfg.pos_conv_depth > 1 else cfg.conv_pos
    positions = 2.0 * clips * frames * kernel * dim * dim / cfg.conv_pos_groups * cfg.pos_conv_depth
    encoder = cfg.encoder_layers * layer_operations(dim, cfg.encoder_ffn_embed_dim, clips, frames)
    heads = 2.0 * masked * dim * (dim + classes)
    student = 2 * first + 3 * (layers + projection + positions + encoder + heads)
    return student + positions + encoder


def layer_operations(dim: int, ffn_dim: int, clips: int, frames: int) -> float:
    """Of a transformer layer's forward pass: four projections, two products of attention, two of the FFN."""
    projections = 4 * 2.0 * clips * frames * dim * dim
    attention = 2 * 2.0 * clips * frames * frames * dim
    return projections + attention + 2 * 2.0 * clips * frames * dim * ffn_dim

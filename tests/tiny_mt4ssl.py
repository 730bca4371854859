"""A tiny MT4SSL without anything random in its forward pass, batches for it, its losses and gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from noise_batches import numbered_noise, random_labels
from ssl_figures import total
from tiny_encoder import NO_DROPOUT, WAVEFORM
from torch import Tensor

from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel

ENCODER: dict[str, Any] = {
    "conv_feature_layers": WAVEFORM,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "encoder_layers": 3,
    "conv_pos": 15,
    "conv_pos_groups": 4,
    "average_top_k_layers": 2,
    **NO_DROPOUT,
    "encoder_layerdrop": 0.0,
    "mask_length": 3,
    "seed": 1,
}
LENGTHS = [[9_000, 9_000], [9_000, 6_400]]


def build(classes: list[int] | None = None, **changes: Any) -> Mt4sslModel:
    """In training mode. classes: entries of each label set's dictionary; one set of 12 unless given."""
    torch.manual_seed(0)
    task = SimpleNamespace(label_classes=[12] if classes is None else classes)
    return Mt4sslModel.build_model(Mt4sslConfig(**{**ENCODER, **changes}), task)


def batch(lengths: list[int], width: int = 0) -> dict[str, Any]:
    """Noise with labels, zeros up to a width."""
    inputs = numbered_noise(lengths, width)
    return {**inputs, "labels": [random_labels((inputs["lengths"] - 400) // 320 + 1)]}


def losses_and_gradients(model: Mt4sslModel, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradients by name."""
    model.zero_grad()
    loss = total(model(**inputs))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

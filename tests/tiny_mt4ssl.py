"""A tiny MT4SSL without anything random in its forward pass, batches for it, its losses and gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from ssl_figures import total
from torch import Tensor

from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel

ENCODER: dict[str, Any] = {
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "encoder_layers": 3,
    "conv_pos": 15,
    "conv_pos_groups": 4,
    "average_top_k_layers": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "mask_length": 3,
    "seed": 1,
}
LENGTHS = [[9_000, 9_000], [9_000, 6_400]]


def build(**changes: Any) -> Mt4sslModel:
    """In training mode, with one label set."""
    torch.manual_seed(0)
    config = Mt4sslConfig(**{**ENCODER, **changes})
    return Mt4sslModel.build_model(config, SimpleNamespace(label_classes=[12]))


def batch(lengths: list[int], width: int = 0) -> dict[str, Any]:
    """Noise with labels, zeros up to a width."""
    torch.manual_seed(1)
    clips = [torch.randn(length) for length in lengths]
    source = torch.zeros(len(lengths), max(width, *lengths))
    for row, clip in zip(source, clips, strict=True):
        row[: len(clip)] = clip
    labels = [torch.randint(4, 12, (len(lengths), (max(lengths) - 400) // 320 + 1))]
    ids = torch.arange(len(lengths))
    return {"source": source, "lengths": torch.tensor(lengths), "ids": ids, "labels": labels}


def losses_and_gradients(model: Mt4sslModel, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradients by name."""
    model.zero_grad()
    loss = total(model(**inputs))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

"""A tiny joint model; what it has beside its speech encoder: the smallest image encoder and speech branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel

GROUNDING: dict[str, Any] = {
    "preset": "modern",
    "shared_layers": 2,
    "speech_in_channels": 8,
    "speech_channels": [8, 16],
    "speech_strides": [2, 2],
    "image_encoder": "cnn",
    "image_layers": 1,
    "image_channels": [8, 8, 8],
    "image_grid": 2,
    "image_size": 16,
    "final_dim": 8,
}
JOINT: dict[str, Any] = {
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "encoder_layers": 3,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    **GROUNDING,
    "latent_vars": 8,
    "num_negatives": 5,
    "seed": 1,
}


def build_joint(weight_seed: int = 0, **changes: Any) -> JointSslVgsModel:
    """With wav2vec 2.0 unless changed, in training mode; weight_seed: of the weights it begins with."""
    torch.manual_seed(weight_seed)
    return JointSslVgsModel.build_model(JointSslVgsConfig(**{**JOINT, **changes}))


def count_parameters(modules: Sequence[nn.Module] | nn.Module) -> int:
    """Number of trained parameters of one module or several."""
    several = [modules] if isinstance(modules, nn.Module) else modules
    return sum(p.numel() for module in several for p in module.parameters() if p.requires_grad)

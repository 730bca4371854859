"""A tiny joint model; what it has beside its speech encoder: the smallest image encoder and speech head."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from tiny_encoder import ENCODER
from torch import nn

from fairseq_mtssl.criterions.joint_ssl_vgs import JointSslVgsCriterion, JointSslVgsCriterionConfig
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
    **ENCODER,
    "conv_pos": 8,
    **GROUNDING,
    "latent_vars": 8,
    "num_negatives": 5,
    "seed": 1,
}


def build_joint(weight_seed: int = 0, classes: list[int] | None = None, **changes: Any) -> JointSslVgsModel:
    """With wav2vec 2.0 unless changed, in training mode.

    weight_seed: of the weights it begins with. classes: entries of each label set's dictionary.
    """
    torch.manual_seed(weight_seed)
    config = JointSslVgsConfig(**{**JOINT, **changes})
    return JointSslVgsModel.build_model(config, SimpleNamespace(label_classes=classes or []))


def build_joint_criterion() -> JointSslVgsCriterion:
    """In training mode."""
    return JointSslVgsCriterion(JointSslVgsCriterionConfig(), None).train()


def count_parameters(modules: Sequence[nn.Module] | nn.Module) -> int:
    """Number of trained parameters of one module or several."""
    several = [modules] if isinstance(modules, nn.Module) else modules
    return sum(p.numel() for module in several for p in module.parameters() if p.requires_grad)

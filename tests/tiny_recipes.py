"""Settings that make the models and trainings of the recipes as small as they can be."""

from __future__ import annotations

from typing import Any

from tiny_encoder import ENCODER
from tiny_grounding import JOINT

COMMON: dict[str, Any] = {"common.log_interval": 1, "dataset.batch_size": 4, "dataset.num_workers": 0}
EVERY_UPDATE: dict[str, Any] = {
    "optimization.max_update": 8,
    "checkpoint.save_interval_updates": 1,
    "checkpoint.keep_interval_updates": -1,
    "checkpoint.save_interval": 1,
}
"""Eight updates and a checkpoint after each."""
TINY: dict[str, Any] = {
    **COMMON,
    **EVERY_UPDATE,
    # the recipes choose the preset and the image encoder; the model takes the task's size of images
    **{
        f"model.{name}": value
        for name, value in JOINT.items()
        if name not in ("preset", "image_encoder", "image_size", "seed")
    },
    "task.image_size": 16,
    "task.max_duration_s": 0.5,
    "task.eval_max_duration_s": 0.5,
    "task.lengths": ["4 updates", "rest"],
    "model.feature_extractor": "waveform",
    "model.conv_bias": False,
    "model.speech_kernel": 9,
    "model.vgs_mask_prob": 0.0,
    "optimization.lr": [0.0007],
    "checkpoint.keep_last_epochs": -1,
    "checkpoint.no_epoch_checkpoints": True,
}
"""The joint model."""
TINY_MT4SSL: dict[str, Any] = {
    **COMMON,
    **EVERY_UPDATE,
    **{f"model.{name}": value for name, value in ENCODER.items()},
    "task.max_duration_s": 0.4,
    "task.min_duration_s": 0.1,
    "model.conv_pos": 9,
    "model.average_top_k_layers": 2,
    "model.ema_decay": 0.8,
    "model.ema_end_decay": 0.95,
    "model.ema_anneal_updates": 5,
    "model.mask_length": 3,
    "dataset.max_tokens": None,
    "checkpoint.no_epoch_checkpoints": False,
}
TINY_CTC: dict[str, Any] = {
    **COMMON,
    "model.mask_length": 3,
    "model.mask_channel_prob": 0.3,
    "model.mask_channel_length": 4,
    "dataset.max_tokens": None,
    "dataset.validate_interval_updates": 3,
    "optimization.max_update": 6,
    "checkpoint.save_interval_updates": 1,
    "checkpoint.keep_interval_updates": -1,
}


def command_words(settings: dict[str, Any]) -> list[str]:
    """Settings as words of the command line."""
    return [f"{key}={_typed(value)}" for key, value in settings.items()]


def tiny_words() -> list[str]:
    """What makes an example's model small and its batches, as words of the command line."""
    keys = ("model.", "task.image", "task.max", "task.eval", "dataset.")
    return command_words({key: value for key, value in TINY.items() if key.startswith(keys)})


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_typed(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_typed(each)}" for key, each in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else str(value)

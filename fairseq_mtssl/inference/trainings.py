"""Reads the configuration, length and size of a training from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fairseq_mtssl import checkpoints
from fairseq_mtssl.errors import CheckpointError


def training_of(checkpoint: Path) -> tuple[dict[str, Any], int, float, int]:
    """The configuration as plain values, the updates and the seconds trained, and the number of weights.

    Raises: CheckpointError for a file that is no checkpoint, or holds no configuration.
    """
    state = checkpoints.read_state(checkpoint)
    if state["cfg"] is None:
        raise CheckpointError(checkpoint, "holds no configuration", "Give one that a training has saved.")
    cfg = _plain(OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True))
    history = state.get("optimizer_history") or [{}]
    seconds = float((state.get("extra_state") or {}).get("previous_training_time", 0.0))
    weights = sum(weight.numel() for weight in state["model"].values())
    return cfg, int(history[-1].get("num_updates", 0)), seconds, weights


def _plain(value: Any) -> Any:
    """Nested dicts and lists of values that YAML has; any other value as its text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

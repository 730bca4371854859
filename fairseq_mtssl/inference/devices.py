"""The device that a model runs on."""

from __future__ import annotations

import torch

from fairseq_mtssl.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device of a name; auto: CUDA if there is any.

    Raises: ConfigError for CUDA where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", [f"{name}, but torch finds no CUDA device; take cpu or auto"])
    return device

"""The device that a model runs on, and how much audio is put through it at once."""

from __future__ import annotations

import torch

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import SAMPLE_RATE_HZ

BATCH_S = {"cuda": 400.0}  # seconds of audio; on other devices one utterance at a time is fastest


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


def batch_samples(seconds: float | None, device: torch.device) -> int | None:
    """The samples of a batch.

    seconds: of the batch, 0: one utterance at a time, None: as BATCH_S. Returns: None for one at a time.
    """
    seconds = BATCH_S.get(device.type, 0.0) if seconds is None else seconds
    return round(seconds * SAMPLE_RATE_HZ) if seconds > 0 else None

"""In which precision a module multiplies matrices."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from fairseq_mtssl.errors import ConfigError

PRECISIONS = ("float32", "bfloat16", "auto")


def check_precision(name: str) -> str:
    """The name again. Raises: ConfigError if it is none of PRECISIONS."""
    if name not in PRECISIONS:
        raise ConfigError("model.precision", [f"got {name!r}, wanted {', '.join(PRECISIONS)}"])
    return name


def mixed(name: str, device: torch.device) -> Any:
    """A context in which matrices are multiplied in this precision and weights stay as they are."""
    if resolve(name, device) == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def resolve(name: str, device: torch.device) -> str:
    """One of PRECISIONS as it is; auto: bfloat16 where the device has instructions for it, else float32.

    Raises: ConfigError if it is none of PRECISIONS.
    """
    if check_precision(name) != "auto":
        return name
    return "bfloat16" if has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: AVX512-BF16 or AMX, or a GPU from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # private in torch; where they are gone, nothing is claimed
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)

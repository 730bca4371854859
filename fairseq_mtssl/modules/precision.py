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
    """A context in which matrices are multiplied in this precision and weights stay as they are.

    name: of PRECISIONS; auto is bfloat16 where the device has instructions for it.
    """
    if name == "float32" or (name == "auto" and not has_bfloat16(device)):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: AVX512-BF16 or AMX, or a GPU from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # private in torch; where they are gone, nothing is claimed
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)

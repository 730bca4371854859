"""In which precision a module multiplies matrices."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import nn

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


def rounded_copy(module: nn.Module) -> Any:
    """The same module, but with linear layers that keep their weights in bfloat16.

    Autocast rounds weights anew at every call, and that takes long where clips come one by one. All else is
    shared with `module`, which stays as it is. To compute with, not to train.
    """
    found = copy.copy(module)
    found._modules = {
        name: None if child is None else rounded_copy(child) for name, child in module._modules.items()
    }
    if isinstance(module, nn.Linear):
        weights = module._parameters.items()
        found._parameters = {
            name: None if weight is None else nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
            for name, weight in weights
        }
    return found


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

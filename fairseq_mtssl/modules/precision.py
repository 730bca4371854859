"""The precision in which a module multiplies matrices."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import nn

from fairseq_mtssl.errors import ConfigError

PRECISIONS = ("float32", "bfloat16", "auto")


def check_precision(name: str) -> str:
    """Return the name if it is one of PRECISIONS. Raises: ConfigError otherwise."""
    if name not in PRECISIONS:
        raise ConfigError("model.precision", [f"got {name!r}, wanted {', '.join(PRECISIONS)}"])
    return name


def mixed(name: str, device: torch.device) -> Any:
    """Return a context in which matrices are multiplied in this precision; weights are not changed."""
    if resolve(name, device) == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def rounded_copy(module: nn.Module) -> Any:
    """Return a copy of a module for inference whose linear layers have weights in bfloat16.

    Autocast rounds weights at every call, which takes long if clips come one by one. Everything else is
    shared with `module`, which is not changed.
    """
    rounded = copy.copy(module)
    rounded._modules = {
        name: None if child is None else rounded_copy(child) for name, child in module._modules.items()
    }
    if isinstance(module, nn.Linear):
        weights = module._parameters.items()
        rounded._parameters = {
            name: None if weight is None else nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
            for name, weight in weights
        }
    return rounded


def resolve(name: str, device: torch.device) -> str:
    """Replace auto by bfloat16 on a device with instructions for it, else by float32; keep other names.

    Raises: ConfigError if the name is none of PRECISIONS.
    """
    if check_precision(name) != "auto":
        return name
    return "bfloat16" if has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device is faster in bfloat16: CPUs with AVX512-BF16 or AMX, GPUs from Ampere on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # these functions are private in torch; a version without them counts as a CPU without the instructions
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)

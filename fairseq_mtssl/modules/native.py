"""The compiled part: on a CPU, row by row in one pass what torch does in several (native.cpp).

Compiled when the package is installed, where a compiler is; everything here that asks `ready` first has a way by
torch, too. MTSSL_NATIVE=0 in the environment takes that way always.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sysconfig
import warnings
import zlib
from pathlib import Path

import torch
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16)

_BUILDS = {"AVX512": "avx512", "AVX2": "avx2"}
"""By what torch calls a processor, the build for it."""

_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float
_SIGNATURES = {
    "random_numbers": [_POINTER, _LONG, ctypes.c_uint64],
    "softmax_dropout": [_POINTER, _POINTER, _INT, _LONG, _LONG, _FLOAT, _POINTER, _INT, _INT, _FLOAT],
    "softmax_dropout_backward": [_POINTER, _POINTER, _POINTER, _INT, _LONG, _LONG, _FLOAT, _FLOAT],
    "norm_gelu": [_POINTER, _INT, _POINTER, _POINTER, _FLOAT, _POINTER, _INT, _LONG, _LONG],
    "norm_gelu_backward": [
        *(_POINTER, _INT, _POINTER, _POINTER, _FLOAT, _POINTER, _INT),
        *(_POINTER, _POINTER, _POINTER, _LONG, _LONG),
    ],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The build for this processor; None where there is none, or MTSSL_NATIVE=0."""
    build = _BUILDS.get(torch.backends.cpu.get_cpu_capability())
    if build is None or os.environ.get("MTSSL_NATIVE", "1") == "0":
        return None
    here = Path(__file__)
    path = here.with_name(f"_native_{build}{sysconfig.get_config_var('EXT_SUFFIX')}")
    if not path.exists():
        return None
    found = ctypes.CDLL(str(path))
    source = here.with_suffix(".cpp")
    if source.exists() and found.source() & 0xFFFFFFFF != zlib.crc32(source.read_bytes()):
        warnings.warn(f"{path.name} was compiled of another {source.name} and is not used; install again", stacklevel=2)
        return None
    for name, arguments in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    return found


def ready(*tensors: Tensor) -> bool:
    """Whether the functions below can take these."""
    fit = all(x.device.type == "cpu" and x.is_contiguous() and x.dtype in TYPES for x in tensors)
    return fit and library() is not None


def random_numbers(count: int, seed: int) -> Tensor | None:
    """(count,) int16, evenly from all there are, the same ones from the same seed; None without the library."""
    found = library()
    if found is None:
        return None
    out = torch.empty(count, dtype=torch.int16)
    found.random_numbers(_at(out), count, seed)
    return out


def softmax_dropout(
    scores: Tensor, dropped: Tensor, scale: float, numbers: Tensor | None, limits: tuple[int, int], kept: float
) -> None:
    """Softmax of scale · scores over the last dimension, in place, and what dropout makes of it.

    scores: (…, S); dropped: where to put the latter, or scores itself: then only the latter is left. numbers:
    (…, S) int16, or None: none are dropped; limits: the first and the last of those that are; kept: what the others
    are multiplied with.
    """
    _library().softmax_dropout(
        *(_at(scores), _at(dropped), _half(scores), *_size(scores), scale), *(_at(numbers), *limits, kept)
    )


def softmax_dropout_backward(weights: Tensor, dropped: Tensor, grad: Tensor, scale: float, kept: float) -> None:
    """The gradient of scores, in place of that of `dropped`, from what `softmax_dropout` left.

    weights, dropped: (…, S), the same tensor where nothing was dropped; grad: (…, S).
    """
    _library().softmax_dropout_backward(
        _at(weights), _at(dropped), _at(grad), _half(grad), *_size(grad), scale, kept
    )


def norm_gelu(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, out: Tensor) -> None:
    """out: GELU of the layer norm of x over its last dimension, or of x itself; weight, bias: float32 or None."""
    _library().norm_gelu(_at(x), _half(x), _at(weight), _at(bias), eps, _at(out), _half(out), *_size(x))


def norm_gelu_backward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    grad: Tensor,
    out: Tensor,
    weight_grad: Tensor | None,
    bias_grad: Tensor | None,
) -> None:
    """out: the gradient of x, like it, from that of what `norm_gelu` gave; those of weight and bias are added up."""
    _library().norm_gelu_backward(
        *(_at(x), _half(x), _at(weight), _at(bias), eps, _at(grad), _half(grad)),
        *(_at(out), _at(weight_grad), _at(bias_grad), *_size(x)),
    )


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found


def _at(x: Tensor | None) -> int | None:
    """Where the first element lies."""
    return None if x is None else x.data_ptr()


def _half(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def _size(x: Tensor) -> tuple[int, int]:
    """Rows and columns, where all dimensions but the last are one."""
    columns = x.size(-1)
    return x.numel() // columns, columns

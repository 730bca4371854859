"""The compiled part: on a CPU, row by row in one pass what torch does in several (native.cpp).

Compiled when the package is installed, where a compiler is. Whoever calls it has a way by torch, too, and
takes that where `ready` says no, which with MTSSL_NATIVE=0 in the environment it always does.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sysconfig
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16)

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


class Dropout(NamedTuple):
    """numbers: int16, one for each element, or None: none are dropped; low, high: the first and the last of
    the numbers whose elements are dropped; kept: what the others are multiplied with."""

    numbers: Tensor | None
    low: int
    high: int
    kept: float


class Norm(NamedTuple):
    """A layer norm over D. weight, bias: (D,) float32, or None: no norm; eps: added to variances."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float


def instructions() -> str:
    """Those of this processor, as setup.py names its builds; torch's name where there is none."""
    name = torch.backends.cpu.get_cpu_capability().lower()
    # private in torch; where it is gone, the build without does the same
    with_bf16 = name == "avx512" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "avx512_bf16" if with_bf16 else name


@functools.cache
def library() -> ctypes.CDLL | None:
    """The build for this processor; None where there is none, or MTSSL_NATIVE=0."""
    if os.environ.get("MTSSL_NATIVE", "1") == "0":
        return None
    here, build = Path(__file__), instructions()
    path = here.with_name(f"_native_{build}{sysconfig.get_config_var('EXT_SUFFIX')}")
    if not path.exists():
        return None
    found = ctypes.CDLL(str(path))
    sources = [here.with_name(name) for name in ("native.cpp", "native_vectors.h")]
    if all(source.exists() for source in sources):
        text = b"".join(source.read_bytes() for source in sources)
        if found.source() & 0xFFFFFFFF != zlib.crc32(text):
            advice = "was compiled of another native.cpp and is not used; install the package again"
            warnings.warn(f"{path.name} {advice}", stacklevel=2)
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
    """(count,) int16, evenly from all there are, the same from the same seed; None without the library."""
    found = library()
    if found is None:
        return None
    out = torch.empty(count, dtype=torch.int16)
    found.random_numbers(_at(out), count, seed)
    return out


def softmax_dropout(scores: Tensor, dropped: Tensor, scale: float, dropout: Dropout) -> None:
    """Softmax of scale · scores over the last dimension, in place, and what dropout makes of it.

    scores: (…, S); dropped: where to put the latter, or scores itself: then only the latter is left.
    """
    _library().softmax_dropout(
        *(_at(scores), _at(dropped), _half(scores), *_size(scores), scale), *_drawn(dropout)
    )


def softmax_dropout_backward(
    weights: Tensor, dropped: Tensor, grad: Tensor, scale: float, kept: float
) -> None:
    """The gradient of scores, in place of that of `dropped`, from what `softmax_dropout` left.

    weights, dropped: (…, S), the same tensor where nothing was dropped; grad: (…, S).
    """
    _library().softmax_dropout_backward(
        *(_at(weights), _at(dropped), _at(grad), _half(grad), *_size(grad), scale, kept)
    )


def norm_gelu(x: Tensor, norm: Norm, out: Tensor) -> None:
    """out: GELU of the norm of x, (…, D), or of x itself."""
    _library().norm_gelu(_at(x), _half(x), *_parts(norm), _at(out), _half(out), *_size(x))


def norm_gelu_backward(x: Tensor, norm: Norm, grad: Tensor, out: Tensor, sums: Norm) -> None:
    """out: the gradient of x, like it, from that of what `norm_gelu` gave; the norm's are added to sums."""
    _library().norm_gelu_backward(
        *(_at(x), _half(x), *_parts(norm), _at(grad), _half(grad)),
        *(_at(out), _at(sums.weight), _at(sums.bias), *_size(x)),
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


def _drawn(dropout: Dropout) -> tuple[int | None, int, int, float]:
    return _at(dropout.numbers), dropout.low, dropout.high, dropout.kept


def _parts(norm: Norm) -> tuple[int | None, int | None, float]:
    return _at(norm.weight), _at(norm.bias), norm.eps

"""The C++ extension: on a CPU, in one pass through the cache what torch does in several (native.cpp).

It is compiled when the package is installed, where there is a compiler. Each caller has an implementation by
torch as well, and uses that where `ready` or `takes` returns False. With MTSSL_NATIVE=0 in the environment
that is always so.
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


class _Rows(ctypes.Structure):
    """(heads, rows, columns): where, and elements from one head and from one row to the next."""

    _fields_ = [("at", _POINTER), ("head", _LONG), ("row", _LONG)]


_HEADS = [_INT, _LONG, _LONG, _LONG, _LONG, _FLOAT, ctypes.c_uint64, _INT, _INT, _FLOAT]
_SIGNATURES = {
    "random_numbers": [_POINTER, _LONG, ctypes.c_uint64],
    "attention": [*[_Rows] * 4, *_HEADS],
    "attention_backward": [*[_Rows] * 7, *_HEADS],
    "norm_gelu": [_POINTER, _INT, _POINTER, _POINTER, _FLOAT, _POINTER, _INT, _LONG, _LONG],
    "norm_gelu_backward": [
        *(_POINTER, _INT, _POINTER, _POINTER, _FLOAT, _POINTER, _INT),
        *(_POINTER, _POINTER, _POINTER, _LONG, _LONG),
    ],
}


class Dropout(NamedTuple):
    """low, high: the first and the last of the random 16-bit numbers whose elements are dropped; kept: what
    the others are multiplied with, or 0: nothing is dropped. Each head has numbers of its own."""

    seed: int
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
    sources = [here.with_name("native.cpp"), *sorted(here.parent.glob("native_*.h"))]
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


def state() -> str:
    """Whether the C++ extension is used, and why not, for `choose`."""
    if library() is not None:
        return f"on a CPU, with the C++ extension for {instructions()}"
    off = os.environ.get("MTSSL_NATIVE", "1") == "0"
    why = "MTSSL_NATIVE=0" if off else "it is not built for this processor and this version"
    return f"on a CPU, by torch without the C++ extension: {why}"


def ready(*tensors: Tensor) -> bool:
    """Whether the functions for rows can take these."""
    return all(x.is_contiguous() for x in tensors) and takes(*tensors)


def takes(*tensors: Tensor) -> bool:
    """Whether `attend` can take these, whose rows may lie apart."""
    fit = all(x.device.type == "cpu" and x.dtype in TYPES and x.stride(-1) == 1 for x in tensors)
    return fit and library() is not None


def random_numbers(count: int, seed: int) -> Tensor | None:
    """(count,) int16, evenly from all there are, the same from the same seed; None without the library."""
    found = library()
    if found is None:
        return None
    out = torch.empty(count, dtype=torch.int16)
    found.random_numbers(_at(out), count, seed)
    return out


def attend(query: Tensor, key: Tensor, value: Tensor, out: Tensor, dropout: Dropout) -> None:
    """As `torch_attention.attend`."""
    rows = map(_rows, (query, key, value, out))
    _library().attention(*rows, *_heads(query, key), *dropout)


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    dropout: Dropout,
) -> None:
    """As `torch_attention.attend_backward`."""
    rows = map(_rows, (query, key, value, grad, *grads))
    _library().attention_backward(*rows, *_heads(query, key), *dropout)


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


def _rows(x: Tensor) -> _Rows:
    return _Rows(x.data_ptr(), x.stride(0), x.stride(1))


def _heads(query: Tensor, key: Tensor) -> tuple[bool, int, int, int, int, float]:
    """Type, heads, queries, keys, dimensions, and what scores are multiplied with."""
    heads, queries, dim = query.shape
    return _half(query), heads, queries, key.size(1), dim, dim**-0.5


def _parts(norm: Norm) -> tuple[int | None, int | None, float]:
    return _at(norm.weight), _at(norm.bias), norm.eps

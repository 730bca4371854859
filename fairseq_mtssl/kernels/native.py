"""The C++ extension (native.cpp), which computes in one pass over the cache what torch computes in several.

It is compiled when the package is installed, if there is a compiler. Each caller also has an implementation
in torch, and uses it if `ready` or `takes` returns False, which is always so with MTSSL_NATIVE=0 in the
environment.
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
    """An array (heads, rows, columns): its address, and its strides over heads and rows in elements."""

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
    """Dropout as the extension takes it. Each head has its own random numbers.

    low, high: the smallest and the largest random 16-bit number whose element is dropped; kept: the factor of
    the other elements, or 0 if no element is dropped.
    """

    seed: int
    low: int
    high: int
    kept: float


class Norm(NamedTuple):
    """A layer norm over D. weight, bias: (D,) float32, or None without a norm; eps: added to variances."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float


def instructions() -> str:
    """Return the name of this processor's vector instructions, by which setup.py names its builds."""
    name = torch.backends.cpu.get_cpu_capability().lower()
    # this function is private in torch; without it, the build for plain avx512 is used
    with_bf16 = name == "avx512" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "avx512_bf16" if with_bf16 else name


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the build for this processor; None if there is none, or with MTSSL_NATIVE=0."""
    if os.environ.get("MTSSL_NATIVE", "1") == "0":
        return None
    here, build = Path(__file__), instructions()
    path = here.with_name(f"_native_{build}{sysconfig.get_config_var('EXT_SUFFIX')}")
    if not path.exists():
        return None
    loaded = ctypes.CDLL(str(path))
    sources = [here.with_name("native.cpp"), *sorted(here.parent.glob("native_*.h"))]
    if all(source.exists() for source in sources):
        text = b"".join(source.read_bytes() for source in sources)
        if loaded.source() & 0xFFFFFFFF != zlib.crc32(text):
            advice = "was compiled from another native.cpp and is not used; install the package again"
            warnings.warn(f"{path.name} {advice}", stacklevel=2)
            return None
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None
    return loaded


def state() -> str:
    """Describe whether the C++ extension is used, and if not, why; part of the reason for a choice."""
    if library() is not None:
        return f"on a CPU, with the C++ extension for {instructions()}"
    is_off = os.environ.get("MTSSL_NATIVE", "1") == "0"
    reason = "MTSSL_NATIVE=0" if is_off else "it is not built for this processor and this version"
    return f"on a CPU, by torch without the C++ extension: {reason}"


def ready(*tensors: Tensor) -> bool:
    """Return whether the functions over rows (`norm_gelu`) can take these tensors."""
    return all(x.is_contiguous() for x in tensors) and takes(*tensors)


def takes(*tensors: Tensor) -> bool:
    """Return whether `attend` can take these tensors, whose rows need not be contiguous."""
    can_take = all(x.device.type == "cpu" and x.dtype in TYPES and x.stride(-1) == 1 for x in tensors)
    return can_take and library() is not None


def random_numbers(count: int, seed: int) -> Tensor | None:
    """Draw (count,) int16 uniformly from all 16-bit numbers; None without the library."""
    extension = library()
    if extension is None:
        return None
    out = torch.empty(count, dtype=torch.int16)
    extension.random_numbers(_address(out), count, seed)
    return out


def attend(query: Tensor, key: Tensor, value: Tensor, out: Tensor, dropout: Dropout) -> None:
    """Compute `torch_attention.attend`."""
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
    """Compute `torch_attention.attend_backward`."""
    rows = map(_rows, (query, key, value, grad, *grads))
    _library().attention_backward(*rows, *_heads(query, key), *dropout)


def norm_gelu(x: Tensor, norm: Norm, out: Tensor) -> None:
    """Write GELU(norm(x)) into out, or GELU(x) without a norm. x, out: (…, D)."""
    _library().norm_gelu(_address(x), _is_half(x), *_parts(norm), _address(out), _is_half(out), *_size(x))


def norm_gelu_backward(x: Tensor, norm: Norm, grad: Tensor, out: Tensor, sums: Norm) -> None:
    """Write the gradient of x into out, and add those of weight and bias of the norm to sums.

    grad: the gradient of the output of `norm_gelu`.
    """
    _library().norm_gelu_backward(
        *(_address(x), _is_half(x), *_parts(norm), _address(grad), _is_half(grad)),
        *(_address(out), _address(sums.weight), _address(sums.bias), *_size(x)),
    )


def _library() -> ctypes.CDLL:
    extension = library()
    assert extension is not None
    return extension


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _is_half(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def _size(x: Tensor) -> tuple[int, int]:
    """Return the numbers of rows and columns, where all dimensions except the last are rows."""
    columns = x.size(-1)
    return x.numel() // columns, columns


def _rows(x: Tensor) -> _Rows:
    return _Rows(x.data_ptr(), x.stride(0), x.stride(1))


def _heads(query: Tensor, key: Tensor) -> tuple[bool, int, int, int, int, float]:
    """Return whether the type is bfloat16, heads, queries, keys, dimensions, and the factor of the scores."""
    heads, queries, dim = query.shape
    return _is_half(query), heads, queries, key.size(1), dim, dim**-0.5


def _parts(norm: Norm) -> tuple[int | None, int | None, float]:
    return _address(norm.weight), _address(norm.bias), norm.eps

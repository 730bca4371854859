"""A setting of the memory allocator: a process keeps freed memory for the next update."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # from glibc's malloc.h
_SETTINGS = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, except blocks over 32 MB, instead of returning it to the system.

    An update frees gigabytes and allocates them again, and the system clears each page that it gives out. The
    setting is made once per process. It is not made without glibc, nor if the environment has settings of the
    allocator (MALLOC_… or GLIBC_TUNABLES). Returns: whether it was made.
    """
    has_settings = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if has_settings or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in _SETTINGS.items())

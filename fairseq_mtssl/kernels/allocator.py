"""Memory of a process that computes on a CPU: what is freed is kept for the next update."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
_SETTINGS = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory, but for blocks over 32 MB, instead of giving it back to the system.

    An update frees gigabytes and asks for them again, and the system clears each page that it hands out. Done
    once for a process; nothing without glibc, or where MALLOC_… or GLIBC_TUNABLES in the environment tell its
    allocator something else. Returns: whether it was done.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in _SETTINGS.items())

"""Runs work on several tiles at the same time, each on one core.

torch divides every single operation among its threads, which wait for each other at its end. With many small
operations, such as those on tiles that fit into a cache, waiting takes a large part of the time. Threads that
each compute a tile of their own do not wait for each other.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call `work` for each item, on as many threads as torch uses, and return the results in order.

    work: a function of torch operations, during which other threads can run. It records no gradients.
    """
    threads = torch.get_num_threads()
    mode = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

    def run(item: Item) -> Result:
        with mode():
            return work(item)

    if min(threads, len(items)) < 2:
        return [run(item) for item in items]
    return list(_pool(threads).map(run, items))


def shares(count: int) -> list[slice]:
    """Cut `count` items into consecutive slices, one per thread of torch, or per item if there are fewer."""
    parts = max(1, min(torch.get_num_threads(), count))
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def tiles(count: int, most: int) -> list[tuple[int, int]]:
    """Cut `count` items into tiles of equal length, at most `most`, so that all cores finish together.

    Returns: (start, stop) of each tile. A few items are one tile, since starting threads would take longer.
    """
    threads = torch.get_num_threads() if count * 32 > most else 1
    step = math.ceil(count / (math.ceil(count / (most * threads)) * threads))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return this process's pool of threads in which torch operations use one thread only."""
    key = (os.getpid(), threads)
    if key not in _pools:
        started = threading.Barrier(threads)

        def start(_: int) -> None:
            # otherwise the first operation of this thread would set its number of threads to all cores
            torch.get_num_threads()
            torch.set_num_threads(1)
            started.wait()

        pool = ThreadPoolExecutor(threads, thread_name_prefix="side-by-side")
        list(pool.map(start, range(threads)))
        torch.set_num_threads(threads)  # restored, since the calls above also set it for new threads
        _pools[key] = pool
    return _pools[key]

"""Work on several tiles at the same time, each on one core.

torch cuts every single operation among its threads, which wait for each other at its end. Of many small
operations, as on tiles that fit a cache, the waiting takes a large part of the time. Tiles that
do not depend on each other need not wait.
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
    """Call `work` on each item, on as many threads as torch has here, and return the results in order.

    work: computes in torch operations, which let other threads run. No gradients are recorded in it.
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
    """Cut `count` items into neighbouring slices, one for each thread of torch that gets an item."""
    parts = max(1, min(torch.get_num_threads(), count))
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def tiles(count: int, most: int) -> list[tuple[int, int]]:
    """Cut `count` items into tiles of at most `most` and of equal lengths, so that all cores end together.

    Returns: (start, stop) of each tile; of few items one tile, since handing out several would take longer.
    """
    threads = torch.get_num_threads() if count * 32 > most else 1
    step = math.ceil(count / (math.ceil(count / (most * threads)) * threads))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch operations use no other threads; each process has its own."""
    key = (os.getpid(), threads)
    if key not in _pools:
        started = threading.Barrier(threads)

        def start(_: int) -> None:
            torch.get_num_threads()  # else torch sets this thread to the number of all at its first operation
            torch.set_num_threads(1)
            started.wait()

        pool = ThreadPoolExecutor(threads, thread_name_prefix="side-by-side")
        list(pool.map(start, range(threads)))
        torch.set_num_threads(threads)  # which a thread sets for those to come, too
        _pools[key] = pool
    return _pools[key]

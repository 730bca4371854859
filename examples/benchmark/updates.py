"""Updates of MT4SSL on either side, timed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.benchmark.batches import from_files, in_memory, move
from examples.benchmark.load import Timing, peak_mb
from examples.benchmark.precision import PRECISIONS, computing_in
from examples.benchmark.sides import build
from examples.benchmark.sizes import SIZES
from examples.benchmark.stopwatch import Stopwatch


def one_update(
    side: Any, sample: dict[str, Any], update: int, precision: str, clock: Stopwatch | None = None
) -> Tensor:
    """What fairseq's trainer does in an update of one batch. Returns: the loss a masked frame, detached.

    update: counted from 0. The gradient's norm is computed and not cut (clip_norm 0), as in the recipe.
    """
    if clock:
        clock.begin()
    side.start(update)
    if clock:
        clock.forward()
    outside = precision if side.by_autocast else "fp32"  # ours: within its encoder
    with computing_in(outside, sample["net_input"]["source"].device):
        loss, frames = side.loss(sample)
    if clock:
        clock.backward()
    loss.backward()
    if clock:
        clock.step()
    side.optimizer.multiply_grads(1.0 / frames)
    side.optimizer.clip_grad_norm(0.0)
    side.optimizer.step()
    side.finish(update)
    if clock:
        clock.end()
    found: Tensor = loss.detach() / frames
    return found


def measure(
    size: str,
    side: str,
    precision: str,
    device: str,
    weights: str,
    compiled: bool = False,
    workers: int = 0,
) -> Generator[dict[str, Any]]:
    """Time updates of one side in this process, one after the other.

    workers: so many read the batches from files, and the time that an update waits for them is told;
    0: they lie ready.
    Yields: {"seconds", "others", "parts", with workers "wait_s"}, peak memory, the first loss, and the audio
    seconds of an update.
    """
    sizes, where = SIZES[size], torch.device(device)
    changes: dict[str, Any] = {"compile": True} if compiled else {}
    own = build(side, sizes, where, Path(weights), precision=PRECISIONS[precision], **changes)
    cpu = where.type == "cpu"
    shape = sizes.batch if cpu else sizes.gpu_batch
    clock = Stopwatch(own, where) if cpu else None
    facts: dict[str, Any] = {"audio_s": shape[0] * shape[1]}
    with tempfile.TemporaryDirectory() as folder:
        batches = from_files(sizes, shape, workers, Path(folder)) if workers else in_memory(sizes, shape)
        for update in itertools.count():
            with Timing(where, watch=not workers) as timing:
                with Timing() as wait:
                    sample = move(next(batches), where)
                loss = one_update(own, sample, update, precision, clock)
            facts.setdefault("loss", float(loss))
            parts = clock.lap() if clock else {}
            if update < sizes.warm_up:
                continue
            waited = {"wait_s": wait.seconds} if workers else {}
            peak = peak_mb(where)
            if not cpu:  # the borders of the parts make a GPU wait: an update of its own for them
                apart = Stopwatch(own, where)
                one_update(own, sample, update, precision, apart)
                parts = apart.lap()
                apart.close()
            yield timing.sample(parts=parts, **waited, **facts, **peak)

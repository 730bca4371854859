"""Measures updates of MT4SSL on either side."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.benchmark.inputs import from_files, in_memory, move
from examples.benchmark.machine import Timing, peak_mb
from examples.benchmark.parts import SIZES
from examples.benchmark.sides import PRECISIONS, build, computing_in
from examples.benchmark.stopwatch import Stopwatch


def one_update(
    side: Any, sample: dict[str, Any], update: int, precision: str, clock: Stopwatch | None = None
) -> Tensor:
    """The steps of fairseq's trainer in an update of one batch. Returns: the loss per masked frame, detached.

    update: from 0. The norm of the gradient is computed and not clipped (clip_norm 0), as in the recipe.
    """
    mark = clock.mark if clock else lambda border: None
    mark("update")
    side.start(update)
    mark("forward")
    outside = precision if side.by_autocast else "fp32"  # ours converts inside its encoder
    with computing_in(outside, sample["net_input"]["source"].device):
        loss, frames = side.loss(sample)
    mark("backward")
    loss.backward()
    mark("step")
    side.optimizer.multiply_grads(1.0 / frames)
    side.optimizer.clip_grad_norm(0.0)
    side.optimizer.step()
    side.finish(update)
    mark("end")
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
    """Time updates of one side.

    workers: the number of processes that read batches from files; 0 keeps batches in memory.
    Yields: {"seconds", "others", "parts", with workers "wait_s"}, peak memory, the first loss, and the
    seconds of audio in an update.
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
            if not cpu:  # in a further update, since measuring parts makes a GPU wait
                apart = Stopwatch(own, where)
                one_update(own, sample, update, precision, apart)
                parts = apart.lap()
                apart.close()
            yield timing.sample(parts=parts, **waited, **facts, **peak)

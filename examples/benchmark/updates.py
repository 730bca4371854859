"""Updates of MT4SSL on either side, timed."""

from __future__ import annotations

import tempfile
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
    updates: int,
    weights: str,
    compiled: bool = False,
    workers: int = 0,
) -> dict[str, Any]:
    """Time updates of one side in this process.

    workers: so many read the batches from files, and the time that an update waits for them is told;
    0: they lie ready.
    Returns: samples of {"seconds", "others", "parts", with workers "wait_s"}, peak memory, the first loss,
    and the audio seconds of an update.
    """
    sizes, where = SIZES[size], torch.device(device)
    changes: dict[str, Any] = {"compile": True} if compiled else {}
    own = build(side, sizes, where, Path(weights), precision=PRECISIONS[precision], **changes)
    cpu = where.type == "cpu"
    shape = sizes.batch if cpu else sizes.gpu_batch
    clock = Stopwatch(own, where) if cpu else None
    samples, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        batches = from_files(sizes, shape, workers, Path(folder)) if workers else in_memory(sizes, shape)
        for update in range(sizes.warm_up + updates):
            with Timing(where, watch=not workers) as timing:
                with Timing() as wait:
                    sample = move(next(batches), where)
                losses.append(one_update(own, sample, update, precision, clock))
            waited = {"wait_s": wait.seconds} if workers else {}
            samples.append(timing.sample(parts=clock.lap() if clock else {}, **waited))
        peak = peak_mb(where)
        if not cpu:  # its borders make a GPU wait: an update of its own for them
            clock = Stopwatch(own, where)
            one_update(own, sample, sizes.warm_up + updates, precision, clock)
            samples = [{**each, "parts": clock.seconds} for each in samples]
    return {
        "samples": samples[sizes.warm_up :],
        "loss": float(losses[0]),
        "audio_s": shape[0] * shape[1],
        **peak,
    }

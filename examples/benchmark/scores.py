"""Measures evaluations of the size in the paper: ABX, and retrieval of 25,000 captions and 5,000 images."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.benchmark.machine import Timing, peak_mb
from examples.benchmark.parts import SIZES
from fairseq_mtssl.evaluation.abx import AbxTask, cell_errors, plan_abx
from fairseq_mtssl.evaluation.abx_cells import Subsampler
from fairseq_mtssl.evaluation.abx_items import Items
from fairseq_mtssl.evaluation.frame_distance import frame_distance
from fairseq_mtssl.evaluation.retrieval import evaluate_retrieval

RATE_HZ, DIM = 50.0, 768
PHONE_S = (0.04, 0.18)


def abx(size: str, device: str) -> Generator[dict[str, Any]]:
    """Time the cells across speakers, by angular distance. A sample is one pass over all cells."""
    plan = abx_plan(*SIZES[size].abx)
    frames = torch.randn(plan.frames, DIM, generator=torch.Generator().manual_seed(0))
    between = frame_distance(frames.to(device), "angular")
    while True:
        with torch.inference_mode(), Timing(device) as timing:
            errors = cell_errors(plan.across, plan.start, plan.length, between)
        error = plan.across.average(errors)
        yield timing.sample(cells=len(plan.across), error=error, **peak_mb(device))


def abx_plan(speakers: int, phones: int, tokens: int) -> AbxTask:
    """The task of speakers that say each phone some times, in any context."""
    rng = np.random.default_rng(3)
    count = speakers * phones * tokens
    speaker = np.repeat(np.arange(speakers), phones * tokens)
    phone = np.tile(np.repeat(np.arange(phones), tokens), speakers)
    lengths = rng.uniform(*PHONE_S, size=count)
    ends = np.cumsum(lengths.reshape(speakers, -1), axis=1).reshape(-1)
    items = Items(
        path=Path("made up"),
        files=[f"speaker-{number}" for number in range(speakers)],
        file=speaker,
        onset_s=ends - lengths,
        offset_s=ends,
        phone=phone,
        context=np.zeros(count, dtype=np.int64),
        speaker=speaker,
    )
    frames = np.ceil(ends.reshape(speakers, -1)[:, -1] * RATE_HZ).astype(np.int64)
    return plan_abx(items, RATE_HZ, frames, "exact", "any", Subsampler())


def retrieval(size: str) -> Generator[dict[str, Any]]:
    """Time both directions. A sample is one evaluation."""
    captions, images, dim = SIZES[size].retrieval
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(images, dim, generator=generator)
    group = torch.arange(captions) % images
    speech = image[group] + 3 * torch.randn(captions, dim, generator=generator)
    before = peak_mb()["peak_mb"]
    while True:
        with Timing() as timing:
            result = evaluate_retrieval(speech, image, group, torch.arange(images))
        peak, r10 = peak_mb(), result.speech_to_image.recalls[10]
        grew = peak["peak_mb"] - before
        yield timing.sample(captions=captions, images=images, grew_mb=grew, r10=r10, **peak)

"""ABX phone discrimination of the frames of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fairseq_mtssl.evaluation import abx
from fairseq_mtssl.evaluation.abx_cells import Subsampler
from fairseq_mtssl.evaluation.abx_items import Items
from fairseq_mtssl.features.utterances import UtteranceFrames


@dataclass(frozen=True)
class Comparison:
    """How tokens are compared: see `abx.plan_abx` for context, slicing and sampling.

    distance: of two frames, one of `frame_distance.DISTANCES`.
    """

    context: str
    slicing: str
    distance: str
    sampling: Subsampler


def measure_abx(
    frames: UtteranceFrames, items: Items, rows: np.ndarray, comparison: Comparison, device: torch.device
) -> tuple[str, dict[str, Any]]:
    """Measure the ABX errors of every layer; each utterance is computed once for all layers.

    rows: (F,) the utterance of each file of the items.
    Returns: a table, and what --json writes. Raises: ManifestError if the items make no cell, TargetError for
    frames that do not fit, ConfigError for frames that the distance does not take.
    """
    context, slicing, sampling = comparison.context, comparison.slicing, comparison.sampling
    task = abx.plan_abx(items, frames.rate_hz, frames.counts[rows], slicing, context, sampling)
    utterances = frames.read(rows[task.file].tolist(), "frames")
    store = abx.collect_frames(task, utterances, len(frames.names), frames.dim, frames.dtype)
    bar = tqdm(frames.names, desc="ABX", disable=None, delay=1.0, leave=False)
    scores = {
        name: abx.score_abx(task, torch.from_numpy(layer), comparison.distance, device)
        for name, layer in zip(bar, store, strict=True)
    }
    numbers = {
        "item": str(items.path),
        "split": frames.split,
        "source": frames.about,
        "rate_hz": frames.rate_hz,
        "context": context,
        "slicing": slicing,
        "distance": comparison.distance,
        "max_tokens_per_group": sampling.max_tokens,
        "max_x_across": sampling.max_x_across,
        "seed": sampling.seed,
        **abx.to_json(scores, task),
    }
    heading = f"{comparison.distance}, {slicing}, {context} context, {frames.rate_hz:g} Hz"
    return f"split {frames.split}: {heading}\n{abx.format_table(scores, task, frames.kind)}", numbers

"""Linear phone probes on the frames of a data folder's splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fairseq_mtssl.data.phones import phones_of_frames
from fairseq_mtssl.evaluation.probing import LabelledFrames, ProbeRecipe, probe_layers
from fairseq_mtssl.features.utterances import UtteranceFrames


def probe_phones(
    splits: Mapping[str, UtteranceFrames],
    phones: Mapping[str, Sequence[np.ndarray]],
    classes: int,
    recipe: ProbeRecipe,
    max_frames: int,
    device: torch.device,
) -> dict[str, Any]:
    """Train a probe on every layer of the frames; see `evaluation.probing.probe_layers`.

    splits: of the same features: train, valid and perhaps others. phones: of each of their utterances, as
    `data.phones.read_phone_frames` gives them; classes: number of phones in the dictionary.
    """
    labelled = {}
    for name, frames in splits.items():
        hop = frames.about["hop_samples"]
        pairs = zip(phones[name], frames.counts.tolist(), strict=True)
        labels = [phones_of_frames(each, count, hop) for each, count in pairs]
        labelled[name] = LabelledFrames(labels, partial(frames.read, task=name))
    layers, dim = splits["train"].names, splits["train"].dim
    return probe_layers(labelled, layers, dim, classes, recipe, max_frames, device)

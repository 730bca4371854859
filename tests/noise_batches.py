"""Batches of noise for models and criterions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def noise(lengths: Sequence[int], width: int = 0) -> dict[str, Tensor]:
    """source: (B, S), the same noise for the same lengths, with zeros behind each clip; lengths: (B,).

    width: samples that S has at least.
    """
    torch.manual_seed(1)
    source, sizes = torch.randn(len(lengths), max(lengths)), torch.tensor(lengths)
    source[torch.arange(max(lengths)) >= sizes[:, None]] = 0.0
    return {"source": torch.nn.functional.pad(source, (0, max(0, width - max(lengths)))), "lengths": sizes}


def numbered_noise(lengths: Sequence[int], width: int = 0) -> dict[str, Tensor]:
    """The same with ids: (B,), the arguments of a self-supervised model."""
    return {**noise(lengths, width), "ids": torch.arange(len(lengths))}


def random_labels(frames: Tensor, classes: int = 12) -> Tensor:
    """(B, T) of a dictionary of so many entries, the first four special; padded behind each row's frames."""
    labels = torch.randint(4, classes, (len(frames), int(frames.max())))
    labels[torch.arange(labels.size(1)) >= frames[:, None]] = 1
    return labels


def speech_sample(clips: dict[str, Tensor], labels: Sequence[Tensor] | None = None) -> dict[str, Any]:
    """What a criterion is given of clips, a dictionary with source and lengths, and of their label sets."""
    sample = {
        "net_input": {"source": clips["source"], "lengths": clips["lengths"]},
        "id": torch.arange(len(clips["lengths"])),
        "ntokens": int(clips["lengths"].sum()),
        "nsentences": len(clips["lengths"]),
    }
    return sample if labels is None else {**sample, "labels": list(labels)}


def pair_sample(clips: dict[str, Tensor], labels: Sequence[Tensor] | None = None) -> dict[str, Any]:
    """The same with an image of 16 × 16 pixels for each clip, all of them different."""
    sample, rows = speech_sample(clips, labels), torch.arange(len(clips["lengths"]))
    images = torch.arange(len(rows) * 3 * 16 * 16).view(len(rows), 3, 16, 16).to(torch.uint8)
    sample["net_input"] |= {"images": images, "image_index": rows}
    return {**sample, "image_group": rows, "image_row": rows}

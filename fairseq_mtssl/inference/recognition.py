"""Transcribing many recordings with a CTC model, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import CheckpointError, ConfigError
from fairseq_mtssl.features.base import bucket
from fairseq_mtssl.inference.batches import run_batches

Decoder = Callable[[np.ndarray], str]


@dataclass
class Recognised:
    """The texts of recordings by row, and what is wrong with the rows that have none."""

    texts: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


def vocabulary_of(task: Any, checkpoint: str | Path) -> Vocabulary:
    """The symbols that a checkpoint was fine-tuned to predict. Raises: CheckpointError if it was not."""
    try:
        return Vocabulary(task.target_dictionary.symbols)
    except (AttributeError, NotImplementedError, ConfigError) as error:
        why = f" ({error})" if isinstance(error, ConfigError) else ""
        hint = "Fine-tune it first: fairseq-hydra-train --config-name ctc_10h model.pretrained=…"
        raise CheckpointError(checkpoint, f"spells no words{why}", hint) from error


def recognise(
    model: Any,
    decoder: Decoder,
    names: Sequence[str],
    lengths: Sequence[int],
    read: Callable[[int], np.ndarray],
    *,
    device: torch.device,
    batch_samples: int | None,
) -> Recognised:
    """The texts of recordings.

    names: of the recordings, for errors. lengths: their samples, as well as they are known. read: row -> (S,)
    float32 as the model takes it, or an MtsslError.
    A recording that cannot be read, or that the model refuses, is an error of its row.
    """

    def decode(clips: list[np.ndarray]) -> list[str | None]:
        """The text of each clip, None where the model gives NaN."""
        rows = log_probabilities(model, clips, device)
        return [None if np.isnan(log_probs).any() else decoder(log_probs) for log_probs in rows]

    batches = bucket(lengths, batch_samples or 0)
    decoded, errors = run_batches(batches, names, read, decode, "transcribe")
    hint = "Its training has diverged, or the recording is damaged."
    errors |= {
        row: f"{names[row]}: the model gives NaN. {hint}" for row, text in decoded.items() if text is None
    }
    return Recognised({row: text for row, text in decoded.items() if text is not None}, errors)


def log_probabilities(model: Any, clips: Sequence[np.ndarray], device: torch.device) -> list[np.ndarray]:
    """Clips of (S,) float32 -> log-probabilities of (T, V) float32, without the frames of the padding."""
    lengths = torch.tensor([len(clip) for clip in clips])
    source = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in zip(source, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    padding: Tensor | None = torch.arange(source.size(1))[None] >= lengths[:, None]
    if padding is not None and not padding.any():
        padding = None
    with torch.inference_mode():
        output = model(source=source.to(device), padding_mask=None if padding is None else padding.to(device))
        # (T, B, V) -> (B, T, V)
        log_probs = model.get_normalized_probs(output, log_probs=True).transpose(0, 1).float().cpu().numpy()
    if output["padding_mask"] is None:
        return list(log_probs)
    frames = (~output["padding_mask"]).sum(1).tolist()
    return [row[:length] for row, length in zip(log_probs, frames, strict=True)]

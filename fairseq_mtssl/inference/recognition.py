"""What a CTC model hears in many recordings: batched by length, with a progress bar, errors kept apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import CheckpointError, ConfigError, MtsslError
from fairseq_mtssl.features.base import bucket
from fairseq_mtssl.inference.embeddings import QUIET_S
from fairseq_mtssl.prefetch import read_ahead

Decoder = Callable[[np.ndarray], str]


@dataclass
class Recognised:
    """texts: by row; errors: what is wrong with the rows that have no text."""

    texts: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


def vocabulary_of(task: Any, checkpoint: str | Path) -> Vocabulary:
    """The symbols a checkpoint was fine-tuned to. Raises: CheckpointError if it was not."""
    try:
        return Vocabulary(task.target_dictionary.symbols)
    except (AttributeError, NotImplementedError, ConfigError) as error:
        why = f" ({error})" if isinstance(error, ConfigError) else ""
        hint = "Fine-tune it first: fairseq-hydra-train --config-name ctc_10h model.pretrained=…"
        raise CheckpointError(checkpoint, f"spells no words{why}", hint) from error


def recognise(
    model: Any,
    decoder: Decoder,
    lengths: Sequence[int],
    read: Callable[[int], np.ndarray],
    *,
    device: torch.device,
    batch_samples: int | None,
) -> Recognised:
    """Text of each of len(lengths) recordings.

    lengths: samples, as good as known; read: row -> (S,) float32 as the model takes it, or an MtsslError.
    A recording that cannot be read, or that the model refuses, is a error of its row.
    """
    found = Recognised()
    batches = bucket(lengths, batch_samples or 0)

    def load(rows: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        loaded = []
        for row in rows:
            try:
                loaded.append((row, read(row)))
            except MtsslError as error:
                found.errors[row] = str(error)
        return loaded

    def hear(clips: Sequence[tuple[int, np.ndarray]]) -> None:
        try:
            rows = log_probabilities(model, [clip for _, clip in clips], device)
        except MtsslError as error:
            if len(clips) == 1:
                found.errors[clips[0][0]] = str(error)
                return
            for clip in clips:  # the model refuses the batch for one of them: find which
                hear([clip])
            return
        for (row, _), log_probs in zip(clips, rows, strict=True):
            if np.isnan(log_probs).any():
                found.errors[row] = "the model gives NaN. Its training has diverged, or the recording is odd."
            else:
                found.texts[row] = decoder(log_probs)

    with tqdm(total=len(lengths), desc="transcribe", unit="", delay=QUIET_S, dynamic_ncols=True) as bar:
        for batch, loaded in zip(batches, read_ahead(load, batches, ahead=1), strict=True):
            if loaded:
                hear(loaded)
            bar.update(len(batch))
    return found


def log_probabilities(model: Any, clips: Sequence[np.ndarray], device: torch.device) -> list[np.ndarray]:
    """(S,) float32 each -> (T, V) float32 each, without the frames of the padding."""
    lengths = torch.tensor([len(clip) for clip in clips])
    source = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in zip(source, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    padding: Tensor | None = torch.arange(source.size(1))[None] >= lengths[:, None]
    if padding is not None and not padding.any():
        padding = None
    with torch.inference_mode():
        heard = model(source=source.to(device), padding_mask=None if padding is None else padding.to(device))
        # (T, B, V) -> (B, T, V)
        log_probs = model.get_normalized_probs(heard, log_probs=True).transpose(0, 1).float().cpu().numpy()
    if heard["padding_mask"] is None:
        return list(log_probs)
    frames = (~heard["padding_mask"]).sum(1).tolist()
    return [row[:length] for row, length in zip(log_probs, frames, strict=True)]

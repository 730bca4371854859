"""The texts that a CTC model recognises in many recordings, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import CheckpointError, ConfigError, MtsslError
from fairseq_mtssl.features.base import bucket
from fairseq_mtssl.frames import padding_mask
from fairseq_mtssl.inference.batches import run_rows

Decoder = Callable[[np.ndarray], str]


@dataclass
class Recognised:
    """texts: by row; errors: by row, of those that have no text."""

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
    names: Sequence[str],
    lengths: Sequence[int],
    read: Callable[[int], np.ndarray],
    *,
    device: torch.device,
    batch_samples: int | None,
) -> Recognised:
    """The text of each recording.

    names: for errors; lengths: samples, as far as known; read: row -> (S,) float32 as the model takes it, or
    an MtsslError that names the recording. batch_samples: None for one recording at a time.
    """

    def run(clips: list[np.ndarray]) -> list[str]:
        rows = log_probabilities(model, clips, device)
        if any(np.isnan(log_probs).any() for log_probs in rows):
            raise MtsslError("the model gives NaN. Its training has diverged, or the recording is odd.")
        return [decoder(log_probs) for log_probs in rows]

    return Recognised(*run_rows(bucket(lengths, batch_samples or 0), read, run, names, "transcribe"))


def log_probabilities(model: Any, clips: Sequence[np.ndarray], device: torch.device) -> list[np.ndarray]:
    """(S,) float32 each -> (T, V) float32 each, without the frames of the padding."""
    lengths = torch.tensor([len(clip) for clip in clips], device=device)
    waveforms = [torch.from_numpy(clip) for clip in clips]
    source = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device)
    padding = padding_mask(lengths, source.size(1))
    with torch.inference_mode():
        output = model(source=source, padding_mask=padding if bool(padding.any()) else None)
        # (T, B, V) -> (B, T, V)
        log_probs = model.get_normalized_probs(output, log_probs=True).transpose(0, 1).float().cpu().numpy()
    if output["padding_mask"] is None:
        return list(log_probs)
    frames = (~output["padding_mask"]).sum(1).tolist()
    return [row[:length] for row, length in zip(log_probs, frames, strict=True)]

"""Datasets of utterances with their transcripts, which are sequences of dictionary symbols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_mtssl.data.clips import ClipDataset, ClipOptions
from fairseq_mtssl.data.manifest import AudioManifest, read_lines
from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.frames import ConvLayer, conv_length

_PREPARE = "mtssl prepare-text writes it."


def read_transcripts(path: str | Path, manifest: AudioManifest, dictionary: Dictionary) -> list[Tensor]:
    """Read one transcript per utterance: (L,) long tensors of dictionary indices.

    Raises: ManifestError listing every error: a number of lines that differs from the number of utterances,
    an empty line, a symbol that the dictionary lacks.
    """
    lines = read_lines(Path(path))
    errors = []
    if len(lines) != len(manifest):
        errors.append(f"{len(lines)} lines for the {len(manifest)} utterances of {manifest.path}. {_PREPARE}")
    transcripts: list[Tensor] = []
    for number, line in enumerate(lines, start=1):
        symbols = line.split()
        unknown = sorted({symbol for symbol in symbols if symbol not in dictionary})
        if not symbols:
            errors.append(f"line {number} is empty. Remove the utterance from the manifest.")
        if unknown:
            errors.append(
                f"line {number}: {', '.join(map(repr, unknown))} not in the dictionary of the training. "
                "Prepare all splits with one dictionary."
            )
        transcripts.append(torch.tensor([dictionary.index(symbol) for symbol in symbols], dtype=torch.long))
    if errors:
        raise ManifestError(path, errors)
    return transcripts


def frames_needed(symbols: Tensor) -> int:
    """Return the fewest frames in which CTC can emit these symbols; equal neighbours need a blank between."""
    return len(symbols) + int((symbols[1:] == symbols[:-1]).sum())


def spellable(
    sizes: np.ndarray, transcripts: Sequence[Tensor], conv_layers: Sequence[ConvLayer]
) -> np.ndarray:
    """Return (N,) bool: whether CTC can emit the transcript of each utterance in the frames of its audio.

    sizes: (N,) samples of each utterance.
    """
    frames = conv_length(torch.from_numpy(sizes), conv_layers)
    return frames.numpy() >= np.array([frames_needed(symbols) for symbols in transcripts])


class TranscribedDataset(ClipDataset):
    """Whole utterances with their transcripts; a crop would not contain all the words.

    pad: the dictionary index with which transcripts are padded.
    """

    def __init__(
        self, manifest: AudioManifest, transcripts: Sequence[Tensor], options: ClipOptions, *, pad: int
    ) -> None:
        super().__init__(manifest, options)
        self.transcripts = list(transcripts)
        self.pad = pad

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch as fairseq's ctc criterion expects it.

        It has target (B, L) long, target_lengths (B,), ntokens (the number of symbols) and net_input with
        source (B, S), padding_mask (B, S) bool or None, ids (B,).
        """
        batch = super().collater(samples)
        if not batch:
            return batch
        targets = [self.transcripts[index] for index in batch["id"].tolist()]
        speech = batch["net_input"]
        source, lengths = speech["source"], speech["lengths"]
        padding = torch.arange(source.size(1))[None] >= lengths[:, None]
        return {
            **batch,
            "net_input": {
                "source": source,
                "padding_mask": padding if bool(padding.any()) else None,
                "ids": batch["id"],
            },
            "target": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=self.pad),
            "target_lengths": torch.tensor([len(target) for target in targets]),
            "ntokens": sum(len(target) for target in targets),
        }

"""The audio of a split of a data folder, row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fairseq_mtssl.data.audio import read_audio
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.errors import AudioError


@dataclass(frozen=True, eq=False)
class Split:
    """The utterances of a split, in the manifest's order.

    sizes: (N,) samples at 16 kHz. read: row -> its waveform of shape (S,), float32, as long as its size says.
    digest: hash of the manifest's rows, which does not depend on where the corpus lies.
    """

    name: str
    sizes: np.ndarray
    read: Callable[[int], np.ndarray]
    digest: str


def open_split(data: str | Path, name: str) -> Split:
    """A split of a data folder; its audio is read when it is asked for. Raises: ManifestError."""
    manifest = read_audio_manifest(Path(data) / f"{name}.tsv")
    rows = "\n".join(f"{file}\t{size}" for file, size in zip(manifest.files, manifest.sizes.tolist()))
    digest = hashlib.sha256(rows.encode()).hexdigest()
    return Split(name, manifest.sizes, partial(_read_row, manifest), digest)


def _read_row(manifest: AudioManifest, row: int) -> np.ndarray:
    """(S,) float32 of a row. Raises: AudioError if it is unreadable or of another length than listed."""
    path = manifest.audio_path(row)
    wav = read_audio(path)
    if len(wav) != manifest.sizes[row]:
        got = f"{len(wav)} samples, but {manifest.sizes[row]} on line {row + 2} of {manifest.path}"
        raise AudioError(path, got, "Make the manifest again.")
    return wav

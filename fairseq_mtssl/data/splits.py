"""The splits of a data folder: which there are, and the audio of their utterances."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fairseq_mtssl.data.audio import read_audio
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.errors import AudioError, ConfigError


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


def find_splits(data: str | Path, names: str | None) -> list[str]:
    """The splits that --splits names, or every split that has a manifest in the folder, train first.

    Raises: ConfigError if there is none.
    """
    if names is not None:
        given = [name.strip() for name in names.split(",") if name.strip()]
        if not given or len(set(given)) < len(given):
            raise ConfigError("--splits", [f"got {names!r}, wanted names such as train,valid, each once"])
        return given
    if not Path(data).is_dir():
        raise ConfigError("--data", [f"{data} is no folder; give the one that holds train.tsv"])
    paths = [path for path in Path(data).glob("*.tsv") if "." not in path.stem and _is_manifest(path)]
    if not paths:
        raise ConfigError("--data", [f"{data} holds no manifest; make it with a script of manifests/"])
    return sorted((path.stem for path in paths), key=lambda name: (name != "train", name))


def _is_manifest(path: Path) -> bool:
    """The first line of a manifest is a folder alone; that of a table has tabs."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "\t" not in file.readline()


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

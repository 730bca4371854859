"""What `mtssl probe-layers` works on: splits with phones, and the layers' frames of their utterances."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from fairseq_mtssl.cli import abx_sources, target_sources
from fairseq_mtssl.cli.options import random_seed
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.data.phones import UNLABELLED, phones_of_frames, read_phone_frames
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.frames import frame_count

if TYPE_CHECKING:
    import torch


def dictionary_path(data: str | Path) -> Path:
    """Where the phones are listed."""
    return Path(data) / "dict.phn.txt"


@dataclass(frozen=True, eq=False)
class PhoneSplit:
    """Utterances of one split. phones: (T,) one every 20 ms for each row of the manifest."""

    name: str
    manifest: AudioManifest
    phones: list[np.ndarray]

    def labels(self, row: int, hop: int, window: int) -> np.ndarray:
        """(T,) the phone of each frame of a row's features, of so many samples."""
        frames = frame_count(int(self.manifest.sizes[row]), hop, window)
        return phones_of_frames(self.phones[row], frames, hop)

    def labelled_frames(self, hop: int, window: int) -> int:
        """Frames that lie in a phone."""
        rows = range(len(self.manifest))
        return sum(int((self.labels(row, hop, window) != UNLABELLED).sum()) for row in rows)


def open_splits(data: str | Path, names: Sequence[str]) -> dict[str, PhoneSplit]:
    """train and valid, and test if it has phones. Raises: ManifestError with every error of all splits."""
    folder = Path(data)
    wanted = ["train", "valid", *(["test"] if (folder / "test.phn").is_file() else [])]
    found, errors = {}, []
    for name in wanted:
        try:
            manifest = read_audio_manifest(folder / f"{name}.tsv")
            phones = read_phone_frames(folder / f"{name}.phn", manifest, names)
        except ManifestError as error:
            errors += [f"{error.path}: {each}" for each in error.errors]
            continue
        if not any((each != UNLABELLED).any() for each in phones):
            errors.append(f"{folder / name}.phn: no frame has a phone. Align this split.")
        found[name] = PhoneSplit(name, manifest, phones)
    if errors:
        raise ManifestError(folder, errors)
    return found


@dataclass(frozen=True, eq=False)
class LayerFrames:
    """Frames of utterances, of all layers asked for.

    names: of the layers; hop, window: samples of a frame; read: split and rows -> (T, L, D) each.
    """

    names: list[str]
    dim: int
    hop: int
    window: int
    read: Callable[[PhoneSplit, Sequence[int]], Iterator[np.ndarray]]
    about: dict[str, Any]

    def utterances(self, split: PhoneSplit) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(frames (N, L, D), labels (N,)) of each utterance that has any labelled frame."""
        labels = [split.labels(row, self.hop, self.window) for row in range(len(split.manifest))]
        rows = [row for row, each in enumerate(labels) if (each != UNLABELLED).any()]
        found = tqdm(self.read(split, rows), split.name, len(rows), unit="utt", disable=None, leave=False)
        for row, frames in zip(rows, found, strict=True):
            kept = labels[row] != UNLABELLED
            yield frames[kept], labels[row][kept]

    def sample(self, split: PhoneSplit, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(frames (N, L, D), labels (N,)) of labelled frames, `most` at random where there are more."""
        total = split.labelled_frames(self.hop, self.window)
        chosen = np.zeros(total, dtype=bool)
        chosen[np.random.default_rng(seed).permutation(total)[:most]] = True
        count = int(chosen.sum())
        frames = abx_sources.allocate((count, len(self.names), self.dim), np.float32)
        labels = np.empty(count, dtype=np.int64)
        seen = done = 0
        for found, phones in self.utterances(split):
            take = chosen[seen : seen + len(found)]
            here = int(take.sum())
            frames[done : done + here], labels[done : done + here] = found[take], phones[take]
            seen, done = seen + len(found), done + here
        return frames, labels


def open_source(args: argparse.Namespace, device: torch.device) -> LayerFrames:
    """What --checkpoint or --features names. Raises: ConfigError, CheckpointError."""
    from fairseq_mtssl.features.layers import stream
    from fairseq_mtssl.features.mfcc import Mfcc
    from fairseq_mtssl.prefetch import read_ahead

    features: Any
    if args.features:
        features, names = Mfcc(), [str(args.features)]
    else:
        layers = None if args.layers is None else parse_layers(args.layers)
        features = target_sources.open_layers(args.checkpoint, layers, device, random_seed(args))
        names = [str(layer) for layer in features.layers]
    batch = target_sources.batch_samples(args.batch_seconds, device)

    def read(split: PhoneSplit, rows: Sequence[int]) -> Iterator[np.ndarray]:
        wavs = read_ahead(lambda row: target_sources.read_row(split.manifest, row), rows)
        for frames in stream(features, wavs, batch):
            yield frames if frames.ndim == 3 else frames[:, np.newaxis]

    hop, window = features.hop_samples, features.window_samples
    return LayerFrames(names, features.dim, hop, window, read, features.source)


def parse_layers(text: str) -> list[int] | None:
    """--layers: None for all, else its numbers. Raises: ConfigError."""
    try:
        return abx_sources.parse_layers(text)
    except ConfigError as error:
        raise ConfigError("--layers", error.errors) from error


def chance(labels: np.ndarray, splits: dict[str, PhoneSplit], source: LayerFrames) -> dict[str, float]:
    """Accuracy in percent, on each split, of always saying the phone most frequent in train."""
    usual = int(np.bincount(labels).argmax())
    found = {}
    for name, split in splits.items():
        rows = range(len(split.manifest))
        each = np.concatenate([split.labels(row, source.hop, source.window) for row in rows])
        found[name] = 100.0 * float((each == usual).sum()) / int((each != UNLABELLED).sum())
    return found

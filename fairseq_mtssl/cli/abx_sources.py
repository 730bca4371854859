"""The frames that `mtssl evaluate-abx` compares: layers of a checkpoint, other features, units."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from fairseq_mtssl.cli import target_sources
from fairseq_mtssl.cli.options import random_seed
from fairseq_mtssl.errors import ConfigError, ManifestError, TargetError
from fairseq_mtssl.frames import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import torch

    from fairseq_mtssl.evaluation.abx import AbxTask
    from fairseq_mtssl.evaluation.abx_items import Items
    from fairseq_mtssl.features.layers import Features

MEMORY_BYTES = 2**31  # frames beyond this lie in a temporary file


@dataclass(frozen=True, eq=False)
class FrameSource:
    """Frames of a split's utterances.

    heading, names: of the table's first column and its rows, one a layer. frames: (N,) of each utterance.
    read: rows of the manifest -> (T, L, D) each, in their order. about: what they are.
    """

    heading: str
    names: list[str]
    rate_hz: float
    frames: np.ndarray
    dim: int
    dtype: type
    read: Callable[[Sequence[int]], Iterator[np.ndarray]]
    about: dict[str, Any]

    def collect(self, plan: AbxTask, rows: Sequence[int]) -> np.ndarray:
        """(L, F, D): the frames that a plan keeps. rows: of its utterances.

        Raises: TargetError if an utterance has other frames than it should.
        """
        store = allocate((len(self.names), plan.frames, self.dim), self.dtype)
        done = 0
        read = tqdm(self.read(rows), "frames", len(rows), unit="utt", disable=None, delay=1.0, leave=False)
        for row, kept, found in zip(rows, plan.kept, read, strict=True):
            if len(found) != self.frames[row]:
                got = f"row {row + 1}: {len(found)} frames, wanted {self.frames[row]}"
                raise TargetError("features", [f"{got}. Make them again from this manifest."])
            store[:, done : done + len(kept)] = found[kept].transpose(1, 0, 2)
            done += len(kept)
        return store


def allocate(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An empty array, in a temporary file where it would take more than MEMORY_BYTES."""
    if np.dtype(dtype).itemsize * int(np.prod(shape)) <= MEMORY_BYTES:
        return np.empty(shape, dtype=dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype=dtype, mode="w+", shape=shape)  # gone when it is closed


def find_rows(items: Items, data: str | Path, split: str) -> np.ndarray:
    """(F,) the row of the manifest for each file of the items.

    Raises: ManifestError naming every file that the split lacks or has twice.
    """
    ids = target_sources.utterance_ids(data, split)
    places = {name: row for row, name in enumerate(ids)}
    times = Counter(ids)
    counts = np.bincount(items.file, minlength=len(items.files))
    table, hint = Path(data) / f"{split}.tsv", "Give the split these items are of: --split."
    errors = [
        f"{name}: {count} items, but {table} has {times[name] or 'no'} utterances so called. {hint}"
        for name, count in zip(items.files, counts.tolist())
        if times[name] != 1
    ]
    if errors:
        raise ManifestError(items.path, errors)
    return np.array([places[name] for name in items.files], dtype=np.int64)


def open_frames(args: argparse.Namespace, split: str, device: torch.device) -> FrameSource:
    """What --checkpoint, --features or --units names. Raises: ConfigError, CheckpointError, TargetError."""
    if args.units is not None:
        return _units(args.units, args.data, split)
    if args.features is not None and Path(args.features).is_dir():
        return _stored(Path(args.features), args.data, split)
    batch = target_sources.batch_samples(args.batch_seconds, device)
    if args.features is None:
        layers = parse_layers(args.layer)
        stack = target_sources.open_layers(args.checkpoint, layers, device, random_seed(args))
        names = [str(layer) for layer in stack.layers]
        return _computed("layer", names, stack, args.data, split, batch)
    features = target_sources.open_features(args.features, device)
    name = str(features.source.get("layer", args.features))
    heading = "layer" if "layer" in features.source else "features"
    return _computed(heading, [name], features, args.data, split, batch)


def parse_layers(text: str | None) -> list[int] | None:
    """--layer: None for all, else its numbers. Raises: ConfigError."""
    if text in (None, "all"):
        return None
    words = [word.strip() for word in str(text).split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words) or len(set(words)) < len(words):
        raise ConfigError(
            "--layer", [f"got {text!r}, wanted all, or numbers from 1 such as 3 or 6,9, each once"]
        )
    return [int(word) for word in words]


def _computed(
    heading: str,
    names: list[str],
    features: Features,
    data: str | Path,
    name: str,
    batch_samples: int | None,
) -> FrameSource:
    from fairseq_mtssl.features.layers import rate_hz, stream
    from fairseq_mtssl.labels.pipeline import describe
    from fairseq_mtssl.prefetch import read_ahead

    split, about = target_sources.open_split(data, name), describe(features)

    def read(rows: Sequence[int]) -> Iterator[np.ndarray]:
        for frames in stream(features, read_ahead(split.read, rows), batch_samples):
            yield frames if frames.ndim == 3 else frames[:, np.newaxis]

    frames = split.frames(about)
    return FrameSource(heading, names, rate_hz(features), frames, features.dim, np.float32, read, about)


def _stored(folder: Path, data: str | Path, name: str) -> FrameSource:
    """What dump-features wrote."""
    from fairseq_mtssl.features.stored import FeatureShards

    about = target_sources.read_json(folder / target_sources.FEATURES_FILE)
    shards = FeatureShards(folder, name)
    split = target_sources.open_split(data, name)
    wanted = split.frames(about)
    if len(shards) != len(wanted) or not np.array_equal(shards.lengths, wanted):
        differ = int((shards.lengths != wanted).sum()) if len(shards) == len(wanted) else 0
        got = f"{differ} utterances have other frames" if differ else f"{len(shards)} utterances"
        told = f"{got} than the {len(wanted)} rows of {Path(data) / name}.tsv should have"
        raise TargetError(folder, [f"{name}: {told}. Dump features again from this manifest."])
    layer = about.get("layer")
    return FrameSource(
        heading="features" if layer is None else "layer",
        names=[str(about.get("features")) if layer is None else str(layer)],
        rate_hz=SAMPLE_RATE_HZ / about["hop_samples"],
        frames=shards.lengths,
        dim=shards.dim,
        dtype=np.float32,
        read=lambda rows: (np.asarray(shards[row])[:, np.newaxis] for row in rows),
        about=about,
    )


def _units(folder: str | Path, data: str | Path, name: str) -> FrameSource:
    """Labels that make-targets or dump-labels wrote."""
    from fairseq_mtssl.labels.folder import LabelFolder

    targets = LabelFolder(folder)
    labels = targets.labels(name, target_sources.open_split(data, name).sizes)
    return FrameSource(
        heading="units",
        names=[str(labels.clusters)],
        rate_hz=labels.rate_hz,
        frames=np.diff(labels.file.ends),
        dim=1,
        dtype=np.int32,
        # (T,) -> (T, 1, 1)
        read=lambda rows: (labels[row].reshape(-1, 1, 1) for row in rows),
        about={"units": labels.clusters, "source": targets.about.get("source")},
    )

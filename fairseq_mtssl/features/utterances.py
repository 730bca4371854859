"""Frames of the utterances of a split: computed from audio, read from a folder, and stored in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fairseq_mtssl.data.splits import Split
from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.features.base import Extractor, describe, stream
from fairseq_mtssl.features.stored import FeatureShards, FeatureWriter, read_description, shard_rows
from fairseq_mtssl.frames import SAMPLE_RATE_HZ, frame_count
from fairseq_mtssl.prefetch import read_ahead


@dataclass(frozen=True, eq=False)
class UtteranceFrames:
    """The frames of the utterances of a split, wherever they come from, in the order of its manifest.

    split: the name. about: what the frames are. names: of the layers (L), as tables show them; dim: D;
    dtype: float32, or int32 for cluster labels, which have D = 1. rate_hz: frames per second. counts: (N,)
    frames of each utterance. stream: rows of the manifest -> (T, L, D) each, in the order of the rows.
    audio_s: duration of all utterances, and digest: hash of the manifest's rows, where audio is known.
    """

    split: str
    about: dict[str, Any]
    names: list[str]
    dim: int
    rate_hz: float
    counts: np.ndarray
    stream: Callable[[Sequence[int]], Iterator[np.ndarray]]
    dtype: type = np.float32
    audio_s: float = 0.0
    digest: str = ""

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def kind(self) -> str:
        """What the rows of a table are: layers, units or features."""
        if "units" in self.about:
            return "units"
        return "layer" if {"layer", "layers"} & set(self.about) else "features"

    def read(self, rows: Sequence[int], task: str) -> Iterator[np.ndarray]:
        """(T, L, D) of each row, under a progress bar where a person is looking.

        task: the name of the bar. Raises: TargetError if an utterance has not the frames that it should have.
        """
        bar = tqdm(self.stream(rows), task, len(rows), unit="utt", disable=None, delay=1.0, leave=False)
        for row, frames in zip(rows, bar, strict=True):
            if len(frames) != self.counts[row]:
                got = f"row {row + 1}: features of {len(frames)} frames, wanted {self.counts[row]}"
                raise TargetError(self.split, [f"{got}. Dump features again from this manifest."])
            yield frames


def dump_shard(frames: UtteranceFrames, folder: Path, rank: int, nshard: int) -> int:
    """Store the features of one shard, of one layer. Returns: the number of its utterances."""
    rows = shard_rows(len(frames), rank, nshard)
    with FeatureWriter(folder, frames.split, rank, nshard, frames.dim) as writer:
        for each in frames.read(rows, f"features {frames.split} {rank + 1}/{nshard}"):
            writer.append(each[:, 0])
    return len(rows)


def frame_counts(sizes: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """(N,) frames of utterances of (N,) samples, of features as `describe` describes them."""
    samples = torch.from_numpy(np.asarray(sizes))
    return frame_count(samples, about["hop_samples"], about["window_samples"]).numpy()


def computed(split: Split, extractor: Extractor, batch_samples: int | None = None) -> UtteranceFrames:
    """Frames that an extractor gives of the audio, which is read ahead. batch_samples: see `base.stream`."""
    about = describe(extractor)
    return UtteranceFrames(
        split=split.name,
        about=about,
        names=extractor.names,
        dim=extractor.dim,
        rate_hz=SAMPLE_RATE_HZ / extractor.hop_samples,
        counts=frame_counts(split.sizes, about),
        stream=lambda rows: stream(extractor, read_ahead(split.read, rows), batch_samples),
        audio_s=float(split.sizes.sum()) / SAMPLE_RATE_HZ,
        digest=split.digest,
    )


def stored(folder: Path, name: str, split: Split | None = None) -> UtteranceFrames:
    """Frames that `mtssl dump-features` has stored of a split, mapped into memory.

    split: the utterances that they should belong to; None takes the stored ones as they are.
    Raises: TargetError if the folder is incomplete, or other utterances are stored than the split has.
    """
    about, shards = read_description(folder), FeatureShards(folder, name)
    if split is not None:
        wanted = frame_counts(split.sizes, about)
        if len(shards) != len(wanted) or not np.array_equal(shards.lengths, wanted):
            differ = int((shards.lengths != wanted).sum()) if len(shards) == len(wanted) else 0
            got = f"{differ} utterances have other frames" if differ else f"{len(shards)} utterances"
            wrong = f"{got} than the {len(wanted)} rows of {name}.tsv should have"
            raise TargetError(folder, [f"{name}: {wrong}. Dump features again from this manifest."])
    return UtteranceFrames(
        split=name,
        about=about,
        names=[str(about.get("layer", about.get("features")))],
        dim=shards.dim,
        rate_hz=SAMPLE_RATE_HZ / about["hop_samples"],
        counts=shards.lengths,
        stream=partial(map, shards.frames),
    )

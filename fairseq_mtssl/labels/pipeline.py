"""From waveforms to labels: each stage a function, and all of them in one run that a kill does not spoil."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.features import stored
from fairseq_mtssl.features.layers import Features, library_versions, stream
from fairseq_mtssl.files import write_text
from fairseq_mtssl.frames import SAMPLE_RATE_HZ, frame_count
from fairseq_mtssl.labels import shards
from fairseq_mtssl.labels.folder import TARGETS
from fairseq_mtssl.labels.kmeans import (
    OVERSAMPLING,
    Codebook,
    FrameSample,
    learn,
    pick_utterances,
    sample_size,
)
from fairseq_mtssl.labels.quantizer import Quantizer
from fairseq_mtssl.prefetch import read_ahead

logger = logging.getLogger(__name__)

T = TypeVar("T")
FORMAT = 1
CODEBOOK = "codebook.npy"
PLAN = "plan.json"


@dataclass(frozen=True, eq=False)
class Split:
    """The utterances of a split, in the manifest's order.

    sizes: (N,) samples at 16 kHz; read: a row's waveform, (S,) float, exactly so long; digest: of the
    manifest's rows, the same wherever the corpus lies.
    """

    name: str
    sizes: np.ndarray
    read: Callable[[int], np.ndarray]
    digest: str

    def frames(self, about: dict[str, Any]) -> np.ndarray:
        """(N,) frames of each utterance for features described as `describe` does."""
        sizes = torch.from_numpy(np.asarray(self.sizes))
        return frame_count(sizes, about["hop_samples"], about["window_samples"]).numpy()


@dataclass(frozen=True)
class Recipe:
    """What make_targets is to make.

    fit_split: whose frames k-means sees; sample_frames: how many (None: what fits in 400 MB); kmeans: its
    backend; batch_samples: see features.stream; shard_minutes: audio of one part, what a kill can cost.
    """

    clusters: int
    seed: int = 0
    fit_split: str = "train"
    sample_frames: int | None = None
    kmeans: str = "auto"
    store_features: bool = False
    batch_samples: int | None = None
    shard_minutes: float = 30.0


class Source:
    """Frames of a split's utterances, computed from its audio by `features` or read from stored shards."""

    def __init__(
        self,
        split: Split,
        features: Features | None,
        batch_samples: int | None = None,
        stored: Path | None = None,
    ) -> None:
        self.split = split
        self._features = features
        self._batch_samples = batch_samples
        self._folder = stored

    @cached_property
    def _stored(self) -> stored.FeatureShards | None:
        return None if self._folder is None else stored.FeatureShards(self._folder, self.split.name)

    def __call__(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """(T, D) of each row in turn."""
        if self._stored is not None:
            return (np.array(self._stored[row]) for row in rows)
        if self._features is None:
            raise ValueError("a source needs features or stored shards")
        return stream(self._features, read_ahead(self.split.read, rows), self._batch_samples)


def describe(features: Features) -> dict[str, Any]:
    """Features as codebook.json and targets.json name them."""
    shape = {name: getattr(features, name) for name in ("dim", "hop_samples", "window_samples")}
    return {**features.source, **shape}


def shown(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items, under a progress bar where a person is looking."""
    return iter(tqdm(items, total=total, desc=what, unit="utt", disable=None, delay=1.0, leave=False))


def checked(
    found: Iterable[np.ndarray], rows: Sequence[int], frames: np.ndarray, place: str
) -> Iterator[np.ndarray]:
    """The features, as long as each utterance has its frames. Raises: TargetError."""
    for row, each in zip(rows, found, strict=True):
        if len(each) != frames[row]:
            got = f"row {row + 1}: features of {len(each)} frames, wanted {frames[row]}"
            raise TargetError(place, [f"{got}. Dump features again from this manifest."])
        yield each


def dump_shard(source: Source, about: dict[str, Any], folder: Path, rank: int, nshard: int) -> int:
    """Store the features of one shard. Returns: its utterances."""
    split = source.split
    rows = stored.shard_rows(len(split.sizes), rank, nshard)
    found = checked(source(rows), rows, split.frames(about), split.name)
    with stored.FeatureWriter(folder, split.name, rank, nshard, about["dim"]) as writer:
        for each in shown(found, len(rows), f"features {split.name} {rank + 1}/{nshard}"):
            writer.append(each)
    return len(rows)


def fit_codebook(
    source: Source,
    about: dict[str, Any],
    *,
    clusters: int,
    seed: int,
    sample_frames: int | None = None,
    kmeans: str = "auto",
    device: torch.device | str = "cpu",
) -> Codebook:
    """k-means over a sample of a split's frames, uniform among those of utterances drawn at random.

    No more than sample_frames are in memory, and the utterances visited hold OVERSAMPLING times as many.
    """
    split = source.split
    frames = split.frames(about)
    size = sample_frames or sample_size(about["dim"])
    rows = pick_utterances(frames, OVERSAMPLING * size, seed)
    sample = FrameSample(min(size, int(frames[rows].sum())), about["dim"], seed)
    found = checked(source(rows.tolist()), rows.tolist(), frames, split.name)
    for row, each in zip(rows.tolist(), shown(found, len(rows), f"sample {split.name}"), strict=True):
        sample.add(row, each)
    centroids, fit = learn(sample.rows(), clusters, seed=seed, backend=kmeans, device=device)
    fit |= {"seed": seed, "split": split.name, "utterances": len(rows), "frames_seen": sample.seen}
    return Codebook(centroids, about, fit)


def label_shard(
    source: Source, codebook: Codebook, assign: Quantizer, folder: Path, rank: int, nshard: int
) -> int:
    """Write the labels of one shard. Returns: its utterances."""
    split = source.split
    rows = stored.shard_rows(len(split.sizes), rank, nshard)
    found = checked(source(rows), rows, split.frames(codebook.source), split.name)
    bar = shown(found, len(rows), f"labels {split.name} {rank + 1}/{nshard}")
    path = stored.shard_path(folder, split.name, rank, nshard, ".km")
    return shards.write_labels(path, (assign(each) for each in bar))


def merge_split(split: Split, codebook: Codebook, parts: Path, out: Path, nshard: int) -> dict[str, Any]:
    """Merge the shards of a split's labels, verified. Returns: its entry in targets.json."""
    frames = split.frames(codebook.source)
    counts = shards.merge_labels(parts, out, split.name, nshard, frames, len(codebook.centroids))
    return {
        "utterances": len(frames),
        "frames": int(counts.sum()),
        "labels_used": int((counts > 0).sum()),
        "without_frames": int((frames == 0).sum()),
        "manifest_sha256": split.digest,
    }


def finish(out: Path, codebook: Codebook, splits: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Write dict.km.txt, then targets.json, which says that all is there. Returns: its content."""
    clusters = len(codebook.centroids)
    shards.write_dictionary(out, clusters)
    about = {
        "format": FORMAT,
        "rate_hz": SAMPLE_RATE_HZ / codebook.source["hop_samples"],
        "hop_samples": codebook.source["hop_samples"],
        "window_samples": codebook.source["window_samples"],
        "clusters": clusters,
        "seed": codebook.fit["seed"],
        "source": codebook.source,
        "kmeans": codebook.fit,
        "splits": splits,
        "versions": library_versions(),
        **extra,
    }
    write_text(out / TARGETS, json.dumps(about, indent=2) + "\n")
    return about


def make_targets(
    splits: Sequence[Split],
    features: Features,
    out: Path,
    recipe: Recipe,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Labels of every split under one codebook fitted on one of them.

    What a stage has finished stays: after a kill the same call goes on, and ends in the same bytes.
    Returns: the content of targets.json, whose presence says that the folder is complete.
    Raises: ConfigError for a recipe that cannot be, TargetError for a folder of another recipe or in use.
    """
    by_name = {split.name: split for split in splits}
    if recipe.fit_split not in by_name:
        given = ", ".join(by_name)
        raise ConfigError(
            "--fit-split", [f"{recipe.fit_split!r} is not among the splits ({given}); name one"]
        )
    parts = out / "parts"
    plan = plan_of(splits, features, recipe)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        done = finished(out, plan)
        if done is None:
            start(out, parts, plan)
            sources = _sources(splits, features, recipe, out)
            codebook = _codebook(sources[recipe.fit_split], describe(features), out, recipe, device)
            assign = Quantizer(codebook.centroids, device)
            merged = {
                split.name: _labels(sources[split.name], codebook, assign, parts, out, recipe)
                for split in splits
            }
            done = finish(out, codebook, merged, {"plan": plan})
        shutil.rmtree(parts, ignore_errors=True)
    return done


def plan_of(splits: Sequence[Split], features: Features, recipe: Recipe) -> dict[str, Any]:
    """What decides the bytes that make_targets ends in, apart from the versions of libraries."""
    return {
        "source": describe(features),
        "clusters": recipe.clusters,
        "seed": recipe.seed,
        "fit_split": recipe.fit_split,
        "sample_frames": recipe.sample_frames or sample_size(features.dim),
        "kmeans": recipe.kmeans,
        "splits": {split.name: split.digest for split in splits},
    }


def finished(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """targets.json of a complete folder, None of an incomplete one. Raises: TargetError for another plan."""
    path = out / TARGETS
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TargetError(path, [f"cannot be read ({error}). Delete it and run again."]) from error
    _same_plan(path, about.get("plan", {}), plan)
    errors = [f"{name}.km is missing. Delete {TARGETS} and run again." for name in plan["splits"]]
    errors = [error for name, error in zip(plan["splits"], errors) if not (out / f"{name}.km").is_file()]
    if errors:
        raise TargetError(out, errors)
    return about


def start(out: Path, parts: Path, plan: dict[str, Any]) -> None:
    """Note the plan in a new folder, or hold it to the one that was begun there."""
    path = parts / PLAN
    if path.is_file():
        _same_plan(path, json.loads(path.read_text(encoding="utf-8")), plan)
        return
    leftovers = [name for name in (CODEBOOK, "codebook.json") if (out / name).exists()]
    leftovers += [f"{name}.km" for name in plan["splits"] if (out / f"{name}.km").exists()]
    if leftovers:
        raise TargetError(
            out, [f"holds {', '.join(leftovers)} of something else. Give a new or empty folder."]
        )
    parts.mkdir(exist_ok=True)
    write_text(path, json.dumps(plan, indent=2) + "\n")


def _same_plan(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    errors = [
        f"made with {key} {json.dumps(found.get(key))}, now asked for {json.dumps(value)}. "
        "Give another --out, or delete that folder."
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if errors:
        raise TargetError(path, errors)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time. Raises: TargetError if another has it; a killed one never keeps it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise TargetError(
            folder, ["another process is making these targets. Wait for it or stop it."]
        ) from error
    finally:
        os.close(handle)


def _nshard(split: Split, recipe: Recipe) -> int:
    minutes = float(split.sizes.sum()) / SAMPLE_RATE_HZ / 60
    return max(1, math.ceil(minutes / recipe.shard_minutes))


def _sources(splits: Sequence[Split], features: Features, recipe: Recipe, out: Path) -> dict[str, Source]:
    """Where each split's frames come from: its audio, or, with store_features, the shards stored first."""
    sources = {split.name: Source(split, features, recipe.batch_samples) for split in splits}
    if not recipe.store_features:
        return sources
    folder = out / "features"
    folder.mkdir(exist_ok=True)
    for split in splits:
        nshard = _nshard(split, recipe)
        for rank in range(nshard):
            if not stored.shard_path(folder, split.name, rank, nshard, ".npy").exists():
                dump_shard(sources[split.name], describe(features), folder, rank, nshard)
    return {split.name: Source(split, features, None, folder) for split in splits}


def _codebook(
    source: Source, about: dict[str, Any], out: Path, recipe: Recipe, device: torch.device | str
) -> Codebook:
    path = out / CODEBOOK
    if not path.with_suffix(".json").exists():
        fit_codebook(
            source,
            about,
            clusters=recipe.clusters,
            seed=recipe.seed,
            sample_frames=recipe.sample_frames,
            kmeans=recipe.kmeans,
            device=device,
        ).save(path)
    return Codebook.load(path)


def _labels(
    source: Source, codebook: Codebook, assign: Quantizer, parts: Path, out: Path, recipe: Recipe
) -> dict[str, Any]:
    split = source.split
    nshard = _nshard(split, recipe)
    for rank in range(nshard):
        if not stored.shard_path(parts, split.name, rank, nshard, ".km").exists():
            label_shard(source, codebook, assign, parts, rank, nshard)
    return merge_split(split, codebook, parts, out, nshard)

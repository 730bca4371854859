"""The stages from frames to labels, and all of them in one run that can be killed and called again."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.features import stored
from fairseq_mtssl.features.utterances import UtteranceFrames, dump_shard
from fairseq_mtssl.files import write_text
from fairseq_mtssl.frames import SAMPLE_RATE_HZ
from fairseq_mtssl.labels import shards
from fairseq_mtssl.labels.folder import TARGETS, LabelFolder
from fairseq_mtssl.labels.kmeans import (
    OVERSAMPLING,
    Codebook,
    FrameSample,
    learn,
    pick_utterances,
    sample_size,
)
from fairseq_mtssl.labels.quantizer import Quantizer

FORMAT = 1
CODEBOOK = "codebook.npy"
PLAN = "plan.json"


@dataclass(frozen=True)
class Recipe:
    """How labels are made.

    fit_split: the split that k-means is fitted on. sample_frames: how many of its frames; None: as many as
    fit in 400 MB. kmeans: the backend, one of `kmeans.BACKENDS`. store_features: keep the features as well.
    shard_minutes: audio of a shard, which is what a process that is killed loses at most.
    """

    clusters: int
    seed: int = 0
    fit_split: str = "train"
    sample_frames: int | None = None
    kmeans: str = "auto"
    store_features: bool = False
    shard_minutes: float = 30.0


def fit_codebook(frames: UtteranceFrames, recipe: Recipe, device: torch.device | str = "cpu") -> Codebook:
    """k-means over a sample of a split's frames, uniform among those of utterances drawn at random.

    No more than recipe.sample_frames are in memory; the utterances visited hold OVERSAMPLING times as many.
    """
    size = recipe.sample_frames or sample_size(frames.dim)
    rows = pick_utterances(frames.counts, OVERSAMPLING * size, recipe.seed).tolist()
    sample = FrameSample(min(size, int(frames.counts[rows].sum())), frames.dim, recipe.seed)
    for row, each in zip(rows, frames.read(rows, f"sample {frames.split}"), strict=True):
        sample.add(row, each[:, 0])
    centroids, fit = learn(
        sample.rows(), recipe.clusters, seed=recipe.seed, backend=recipe.kmeans, device=device
    )
    fit |= {"seed": recipe.seed, "split": frames.split, "utterances": len(rows), "frames_seen": sample.seen}
    return Codebook(centroids, frames.about, fit)


def label_shard(frames: UtteranceFrames, quantize: Quantizer, folder: Path, rank: int, nshard: int) -> int:
    """Write the labels of one shard. Returns: the number of its utterances."""
    rows = stored.shard_rows(len(frames), rank, nshard)
    read = frames.read(rows, f"labels {frames.split} {rank + 1}/{nshard}")
    path = stored.shard_path(folder, frames.split, rank, nshard, ".km")
    return shards.write_labels(path, (quantize(each[:, 0]) for each in read))


def merge_split(
    frames: UtteranceFrames, codebook: Codebook, parts: Path, out: Path, nshard: int
) -> dict[str, Any]:
    """Merge the shards of a split's labels after checking them. Returns: its entry in targets.json."""
    clusters = len(codebook.centroids)
    counts = shards.merge_labels(parts, out, frames.split, nshard, frames.counts, clusters)
    return {
        "utterances": len(frames),
        "frames": int(counts.sum()),
        "labels_used": int((counts > 0).sum()),
        "without_frames": int((frames.counts == 0).sum()),
        "manifest_sha256": frames.digest,
    }


def finish(out: Path, codebook: Codebook, splits: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Write dict.km.txt, then targets.json, whose presence says that the folder is complete.

    Returns: the content of targets.json.
    """
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


def dump_labels(
    frames: UtteranceFrames,
    codebook: Codebook,
    out: Path,
    rank: int | None,
    nshard: int,
    device: torch.device | str = "cpu",
) -> tuple[int, dict[str, Any] | None]:
    """Label one shard of a split; once all its shards are there, merge them and write targets.json.

    rank: of the shard; None labels nothing and only merges.
    Returns: the number of shards that are there, and after the merge the split's entry in targets.json.
    Raises: ConfigError if nshard is not positive, or if the codebook is of other features; TargetError if the
    folder holds labels of another codebook, or as `shards.merge_labels` does.
    """
    if nshard < 1:
        raise ConfigError("--merge", [f"got {nshard}, wanted the number of shards"])
    if frames.about != codebook.source:
        got = f"learned on {codebook.source}, but the features are {frames.about}"
        raise ConfigError("--codebook", [f"{got}. Learn a codebook on these features"])
    if rank is not None:
        label_shard(frames, Quantizer(codebook.centroids, device), out, rank, nshard)
        paths = [stored.shard_path(out, frames.split, each, nshard, ".km") for each in range(nshard)]
        present = sum(path.is_file() for path in paths)
        if present < nshard:
            return present, None
    about = LabelFolder(out).about
    if about and (about.get("source"), about.get("kmeans")) != (codebook.source, codebook.fit):
        raise TargetError(out / TARGETS, ["is of another codebook. Give another --out for these labels."])
    entry = merge_split(frames, codebook, out, out, nshard)
    finish(out, codebook, about.get("splits", {}) | {frames.split: entry}, {})
    return nshard, entry


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Versions of the libraries that the numbers depend on, for targets.json."""
    names = ("fairseq-mtssl", "torch", "numpy", "faiss-cpu", "faiss-gpu", "scikit-learn")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def make_targets(
    splits: Sequence[UtteranceFrames], out: Path, recipe: Recipe, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Label every split by one codebook, which is fitted on one of them.

    splits: of the same features, each with one layer. Stages that are finished are kept: after a kill, the
    same call continues, and ends in the same bytes.
    Returns: the content of targets.json.
    Raises: ConfigError if the recipe's split is not given; TargetError if the folder is of another recipe or
    another process is working in it.
    """
    by_name = {frames.split: frames for frames in splits}
    if recipe.fit_split not in by_name:
        given = ", ".join(by_name)
        raise ConfigError(
            "--fit-split", [f"{recipe.fit_split!r} is not among the splits ({given}); name one"]
        )
    parts = out / "parts"
    plan = plan_of(splits, recipe)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        done = finished(out, plan)
        if done is None:
            start(out, parts, plan)
            if recipe.store_features:
                by_name = {name: _store(frames, out / "features", recipe) for name, frames in by_name.items()}
            codebook = _codebook(by_name[recipe.fit_split], out, recipe, device)
            quantize = Quantizer(codebook.centroids, device)
            merged = {
                name: _labels(frames, codebook, quantize, parts, out, recipe)
                for name, frames in by_name.items()
            }
            done = finish(out, codebook, merged, {"plan": plan})
        shutil.rmtree(parts, ignore_errors=True)
    return done


def plan_of(splits: Sequence[UtteranceFrames], recipe: Recipe) -> dict[str, Any]:
    """Everything that decides the bytes of the labels, but for the versions of libraries."""
    return {
        "source": splits[0].about,
        "clusters": recipe.clusters,
        "seed": recipe.seed,
        "fit_split": recipe.fit_split,
        "sample_frames": recipe.sample_frames or sample_size(splits[0].dim),
        "kmeans": recipe.kmeans,
        "splits": {frames.split: frames.digest for frames in splits},
    }


def finished(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """targets.json of a complete folder; None if it is incomplete. Raises: TargetError for another plan."""
    path = out / TARGETS
    if not path.exists():
        return None
    about = LabelFolder(out).about
    _same_plan(path, about.get("plan", {}), plan)
    missing = [name for name in plan["splits"] if not (out / f"{name}.km").is_file()]
    errors = [f"{name}.km is missing. Delete {TARGETS} and run again." for name in missing]
    if errors:
        raise TargetError(out, errors)
    return about


def start(out: Path, parts: Path, plan: dict[str, Any]) -> None:
    """Write the plan into a new folder, or compare it with the plan that was begun there."""
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


def _same_plan(path: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    errors = [
        f"made with {key} {json.dumps(begun.get(key))}, now asked for {json.dumps(value)}. "
        "Give another --out, or delete that folder."
        for key, value in wanted.items()
        if begun.get(key) != value
    ]
    if errors:
        raise TargetError(path, errors)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process work in a folder at a time; a killed process does not keep the lock.

    Raises: TargetError if another process has it.
    """
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


def _nshard(frames: UtteranceFrames, recipe: Recipe) -> int:
    return max(1, math.ceil(frames.audio_s / 60 / recipe.shard_minutes))


def _store(frames: UtteranceFrames, folder: Path, recipe: Recipe) -> UtteranceFrames:
    """Store the features of a split, but for shards that are there. Returns: the frames, read from there."""
    folder.mkdir(exist_ok=True)
    nshard = _nshard(frames, recipe)
    for rank in range(nshard):
        if not stored.shard_path(folder, frames.split, rank, nshard, ".npy").exists():
            dump_shard(frames, folder, rank, nshard)
    return replace(frames, stream=partial(map, stored.FeatureShards(folder, frames.split).frames))


def _codebook(frames: UtteranceFrames, out: Path, recipe: Recipe, device: torch.device | str) -> Codebook:
    path = out / CODEBOOK
    if not path.with_suffix(".json").exists():
        fit_codebook(frames, recipe, device).save(path)
    return Codebook.load(path)


def _labels(
    frames: UtteranceFrames, codebook: Codebook, quantize: Quantizer, parts: Path, out: Path, recipe: Recipe
) -> dict[str, Any]:
    nshard = _nshard(frames, recipe)
    for rank in range(nshard):
        if not stored.shard_path(parts, frames.split, rank, nshard, ".km").exists():
            label_shard(frames, quantize, parts, rank, nshard)
    return merge_split(frames, codebook, parts, out, nshard)

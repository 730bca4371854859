"""Labels as frames to be compared, and how well they agree with phone alignments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_mtssl.data.manifest import find_splits, read_audio_manifest, utterance_ids
from fairseq_mtssl.data.phones import read_phone_segments
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.label_quality import measure
from fairseq_mtssl.features.utterances import UtteranceFrames
from fairseq_mtssl.labels.folder import LabelFolder


def units(folder: str | Path, data: str | Path, split: str) -> UtteranceFrames:
    """The labels of a split as frames with one layer and one dimension.

    data: the folder of the split's manifest. Raises: ManifestError, TargetError.
    """
    opened = LabelFolder(folder)
    labels = opened.labels(split, read_audio_manifest(Path(data) / f"{split}.tsv").sizes)

    def stream(rows: Sequence[int]) -> Iterator[np.ndarray]:
        # (T,) -> (T, 1, 1)
        return (labels[row].reshape(-1, 1, 1) for row in rows)

    return UtteranceFrames(
        split=split,
        about={"units": labels.clusters, "source": opened.about.get("source")},
        names=[str(labels.clusters)],
        dim=1,
        rate_hz=labels.rate_hz,
        counts=np.diff(labels.file.ends),
        stream=stream,
        dtype=np.int32,
    )


def measure_labels(folder: str | Path, data: str | Path, names: str | None = None) -> dict[str, Any]:
    """How well the labels of a folder agree with the phones of a data folder, split by split.

    names: splits, separated by commas; None: those that have phones. Returns: rate_hz, clusters, source and
    "splits", which has the fields of `Quality` for each split, with the frames and utterances left out.
    Raises: TargetError for labels or phones that do not fit, ConfigError if no split has both.
    """
    opened = LabelFolder(folder)
    about = {"rate_hz": opened.rate_hz, "clusters": len(opened.symbols), "source": opened.about.get("source")}
    labelled = opened.about.get("splits") or sorted(path.stem for path in opened.path.glob("*.km"))
    phones = {name: Path(data) / f"{name}.phones.tsv" for name in labelled}
    chosen = [name for name, path in phones.items() if path.is_file()]
    if names is not None:
        chosen = find_splits(data, names)
        absent = [name for name in chosen if name not in phones]
        if absent:
            raise ConfigError("--splits", [f"{name!r} has no labels in {folder}" for name in absent])
    if not chosen:
        wanted = ", ".join(path.name for path in phones.values())
        raise ConfigError("--data", [f"{data} has none of {wanted}; write phone alignments there"])
    splits = {}
    for name in chosen:
        labels = opened.labels(name, read_audio_manifest(Path(data) / f"{name}.tsv").sizes)
        aligned = read_phone_segments(phones[name])
        ids = utterance_ids(data, name)
        quality, counted = measure(labels, ids, aligned, rate_hz=labels.rate_hz, clusters=labels.clusters)
        splits[name] = {
            **asdict(quality),
            "uncovered_frames": counted.uncovered,
            "unaligned_utterances": counted.unaligned,
        }
    return {**about, "splits": splits}

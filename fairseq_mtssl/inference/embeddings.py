"""Embeddings of a split or of single files, in batches, with a progress bar, in the order asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.data.manifest import AudioManifest, PairManifest
from fairseq_mtssl.data.pairs import ImageStore, PairDataset
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.image_encoders.base import takes_regions
from fairseq_mtssl.inference.batches import progress_bar, run_rows
from fairseq_mtssl.prefetch import read_ahead

T = TypeVar("T")


class Encoder(Protocol):
    """A model that embeds speech and images."""

    def encode_speech(self, source: Tensor, lengths: Tensor) -> Tensor: ...

    def encode_image(self, images: Any) -> Tensor: ...


@dataclass(frozen=True)
class EncodedSplit:
    """speech: (N, D), a row for each caption; image: (M, D), a row for each image id; float32 on the CPU."""

    manifest: PairManifest
    speech: Tensor
    image: Tensor


@dataclass(frozen=True)
class EncodedFiles:
    """embeddings: (F, D), a row for each of `paths`; skipped: (file, reason) of unusable files."""

    paths: list[Path]
    embeddings: Tensor
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def encode_clips(model: Encoder, batch: dict[str, Tensor]) -> Tensor:
    """(B, D): the embeddings of a batch of collated clips."""
    return model.encode_speech(batch["source"], batch["lengths"])


def encode_split(model: Encoder, dataset: PairDataset, batch_size: int, device: torch.device) -> EncodedSplit:
    """Every caption and every distinct image of a split, once each.

    Captions go through the model longest first: alike in length within a batch, and a batch that does not fit
    in memory shows at once. A file that cannot be read is an error: leaving it out would change the task.
    """
    manifest = dataset.manifest
    by_length = np.argsort(-manifest.audio.sizes, kind="stable").tolist()
    speech = encode(
        by_length,
        lambda rows: dataset.collate_speech([dataset.caption(row) for row in rows]),
        partial(encode_clips, model),
        batch_size,
        device,
        "captions",
    )
    ordered = torch.empty_like(speech)
    ordered[torch.tensor(by_length)] = speech
    image = encode(
        manifest.unique_image_ids,
        lambda image_ids: dataset.collate_images([dataset.image(image_id) for image_id in image_ids]),
        model.encode_image,
        batch_size,
        device,
        "images",
    )
    return EncodedSplit(manifest, ordered, image)


def encode_files(
    model: Encoder,
    reader: PairDataset,
    paths: Sequence[Path],
    batch_size: int,
    device: torch.device,
    *,
    images: bool,
) -> EncodedFiles:
    """Image or audio files in the order given; files that cannot be used are skipped and named.

    Files of similar size share a batch.
    """
    by_size = sorted(range(len(paths)), key=lambda i: paths[i].stat().st_size, reverse=True)
    batches = [by_size[start : start + batch_size] for start in range(0, len(by_size), batch_size)]
    read: Callable[[str], Any] = reader.read_image_file if images else reader.read_speech_file

    def run(items: list[Any]) -> list[Tensor]:
        batch = to_device(reader.collate_images(items) if images else reader.collate_speech(items), device)
        return list(_to_cpu(model.encode_image(batch) if images else encode_clips(model, batch)))

    title = "encode images" if images else "encode captions"
    rows, reasons = run_rows(batches, lambda i: read(str(paths[i])), run, paths, title)
    kept, skipped = sorted(rows), sorted(reasons)
    embeddings = torch.stack([rows[i] for i in kept]) if kept else torch.empty(0, 0)
    return EncodedFiles([paths[i] for i in kept], embeddings, [(paths[i], reasons[i]) for i in skipped])


def file_reader(task: Any) -> PairDataset:
    """Reads loose files as the task's evaluation would, without any data folder.

    Raises: ConfigError for a model of region features, which no image file can give.
    """
    if takes_regions(str(task.cfg.image_encoder)):
        raise ConfigError(
            "checkpoint",
            ["its image encoder takes region features, not image files; use one trained on raw images"],
        )
    nowhere = Path()
    audio = AudioManifest(nowhere, nowhere, [], np.zeros(0, dtype=np.int64))
    nothing = PairManifest(audio, nowhere, [], [], [], [], [], [])
    images = ImageStore(nothing, int(task.cfg.image_size), None)
    return PairDataset(nothing, images, task.clip_options(training=False))


def encode(
    items: Sequence[T],
    load: Callable[[Sequence[T]], Any],
    encode: Callable[[Any], Tensor],
    batch_size: int,
    device: torch.device,
    what: str,
) -> Tensor:
    """The embeddings of items: (len(items), D) float32 on the CPU, in their order.

    load: a batch of items as the model takes it, read while the batch before it is encoded.
    """
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    rows = []
    with progress_bar(len(items), f"encode {what}") as bar, torch.inference_mode():
        for batch, loaded in zip(batches, read_ahead(load, batches, ahead=1), strict=True):
            rows.append(_to_cpu(encode(to_device(loaded, device))))
            bar.update(len(batch))
    return torch.cat(rows)


def to_device(batch: Any, device: torch.device) -> Any:
    """A tensor, or a dict of them, on the device."""
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch.to(device)


def _to_cpu(embeddings: Tensor) -> Tensor:
    return embeddings.to("cpu", torch.float32)

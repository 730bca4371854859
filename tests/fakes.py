"""Stand-ins for a trained model: tones for speech, grey squares for images, a model that joins the two.

A corpus item has a value in [0, 1]: its image is a square of that grey, its captions tones whose frequency
says the value. The model reads both back, so that retrieval is perfect and every mix-up of rows shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from fairseq_mtssl.checkpoints import LoadedModel
from fairseq_mtssl.data.clips import ClipOptions
from fairseq_mtssl.data.images import write_png
from fairseq_mtssl.data.manifest import PairRow, read_pair_manifest, write_pair_manifest
from fairseq_mtssl.data.pairs import ImageStore, PairDataset
from fairseq_mtssl.errors import CheckpointError, ClipTooShortError

RATE_HZ = 16_000
LOWEST_HZ, SPAN_HZ = 200.0, 3000.0
MIN_SAMPLES = 400


def tone(value: float, seconds: float) -> np.ndarray:
    """The spoken form of a value in [0, 1]."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (0.5 * np.sin(2 * np.pi * (LOWEST_HZ + SPAN_HZ * value) * time + 0.3)).astype(np.float32)


def write_tone(path: Path, value: float, seconds: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(value, seconds), RATE_HZ)
    return path


def write_square(path: Path, value: float, size_px: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((size_px, size_px, 3), round(255 * value), dtype=np.uint8))
    return path


def write_corpus(
    folder: Path, values: Sequence[float], captions_each: int = 2, split: str = "test", labels: bool = True
) -> Path:
    """A pair corpus: images i0, i1, … of the values, with captions of different lengths; label: parity of i.

    Captions of an image are not neighbours, so that order matters.
    """
    rows = []
    for take in range(captions_each):
        for i, value in enumerate(values):
            seconds = 0.1 + 0.05 * ((3 * i + take) % 5)
            audio = write_tone(folder / "audio" / f"{split}_{i}_{take}.wav", value, seconds)
            write_square(folder / "images" / f"{split}_{i}.png", value)
            rows.append(
                PairRow(
                    file=audio.name,
                    samples=round(seconds * RATE_HZ),
                    caption_id=f"{split}_{i}_{take}",
                    image=f"{split}_{i}.png",
                    image_id=f"i{i}",
                    label=str(i % 2) if labels else "",
                    text=f"tone number {i}" if take == 0 else "",
                )
            )
    write_pair_manifest(folder, split, rows)
    return folder


class FakeModel(nn.Module):
    """Embeds a value as a point on a quarter circle, whether it comes as a tone or as a grey.

    batches: what went in, as ("speech", lengths) and ("image", count).
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[str, Any]] = []

    def encode_speech(self, source: Tensor, lengths: Tensor) -> Tensor:
        self.batches.append(("speech", lengths.tolist()))
        if int(lengths.min()) < MIN_SAMPLES:
            raise ClipTooShortError(int(lengths.min()), MIN_SAMPLES)
        values = []
        for wave, length in zip(source, lengths.tolist(), strict=True):
            # (S,) -> sign changes per sample: twice the frequency
            changes = (wave[: length - 1] > 0) != (wave[1:length] > 0)
            values.append((changes.float().mean() * RATE_HZ / 2 - LOWEST_HZ) / SPAN_HZ)
        return self._embed(torch.stack(values))

    def encode_image(self, images: Tensor) -> Tensor:
        self.batches.append(("image", len(images)))
        # (M, 3, H, W) uint8 -> (M,)
        return self._embed(images.float().mean(dim=(1, 2, 3)) / 255)

    @staticmethod
    def _embed(values: Tensor) -> Tensor:
        angle = values * torch.pi / 2
        return torch.stack([angle.cos(), angle.sin()], dim=1)


class FakeTask:
    """Loads pair datasets as the real task does in evaluation."""

    def __init__(self, data: str | None = None, image_encoder: str = "cnn") -> None:
        self.cfg = SimpleNamespace(data=data, image_encoder=image_encoder, image_size=8)
        self.datasets: dict[str, PairDataset] = {}

    def clip_options(self, training: bool) -> ClipOptions:
        return ClipOptions(training=training, seed=1, max_samples=10 * RATE_HZ)

    def load_dataset(self, split: str) -> PairDataset:
        manifest = read_pair_manifest(str(self.cfg.data), split)
        images = ImageStore(manifest, self.cfg.image_size, None)
        self.datasets[split] = PairDataset(manifest, images, self.clip_options(training=False))
        return self.datasets[split]

    def dataset(self, split: str) -> PairDataset:
        return self.datasets[split]


def fake_load_model(
    path: str | Path, data: str | None = None, overrides: dict[str, Any] | None = None
) -> LoadedModel:
    """Takes the place of `checkpoints.load_model`; any file at the path will do."""
    if not Path(path).is_file():
        raise CheckpointError(path, "no such file", "Give the path of a checkpoint.")
    task = FakeTask(data)
    return LoadedModel(FakeModel().eval(), task, SimpleNamespace(task=task.cfg))

"""Opens feature extractors by the names that commands use, and computes the frames of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import normalise
from fairseq_mtssl.data.splits import open_split
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.features.base import Extractor, batch_samples
from fairseq_mtssl.features.layers import ModelLayers
from fairseq_mtssl.features.mfcc import Mfcc
from fairseq_mtssl.features.spectral import LogMel
from fairseq_mtssl.features.utterances import UtteranceFrames, computed
from fairseq_mtssl.files import sha256_of
from fairseq_mtssl.modules.encoder_options import EncoderSizes
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder

SPECTRAL = ("mfcc", "mfcc-cmn", "log-mel")


def open_features(
    text: str, device: torch.device, precision: str = "float32", random_seed: int | None = None
) -> Extractor:
    """The extractor that --features names: mfcc, mfcc-cmn, log-mel, or CHECKPOINT:LAYER.

    random_seed: of an untrained network of the checkpoint's sizes, in place of its weights.
    Raises: ConfigError, CheckpointError.
    """
    if text in SPECTRAL:
        if precision == "bfloat16":
            raise ConfigError("--precision", [f"is of a checkpoint's layers; {text} is always in float32"])
        if random_seed is not None:
            raise ConfigError("--random-weights", [f"{text} has no weights; give CHECKPOINT:LAYER"])
        return LogMel() if text == "log-mel" else Mfcc(centred=text == "mfcc-cmn")
    path, _, layer = text.rpartition(":")
    if not path or not layer.isdecimal():
        wanted = f"wanted {', '.join(SPECTRAL)}, or CHECKPOINT:LAYER, layers counted from 1"
        raise ConfigError("--features", [f"got {text!r}, {wanted}, such as checkpoint_best.pt:6"])
    return open_layers(path, int(layer), device, precision, random_seed)


def open_layers(
    path: str | Path,
    layers: int | Sequence[int] | None,
    device: torch.device,
    precision: str = "float32",
    random_seed: int | None = None,
) -> ModelLayers:
    """Layers of a checkpoint, as `ModelLayers` counts them. random_seed: see `open_features`.

    Raises: ConfigError, CheckpointError.
    """
    model: Any
    if random_seed is None:
        upstream = checkpoints.load_upstream(path)
        model, normalised = upstream.model, upstream.normalised
        source: dict[str, Any] = {"model": upstream.name, "checkpoint_sha256": sha256_of(Path(path))}
    else:
        encoder = checkpoints.read_encoder(path)
        model, normalised = torch.nn.Module(), encoder.normalised
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            model.speech_encoder = SpeechEncoder(EncoderSizes.of_plain(encoder.sizes))
        source = {"model": "random", "seed": random_seed}
    return ModelLayers(
        model,
        layers,
        prepare=normalise if normalised else np.asarray,
        source={"features": "layer", **source},
        device=device,
        precision=precision,
    )


def parse_layers(text: str | None, option: str) -> list[int] | None:
    """Layers as an option gives them: None for all of them, else their numbers. Raises: ConfigError."""
    if text in (None, "all"):
        return None
    words = [word.strip() for word in str(text).split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words) or len(set(words)) < len(words):
        wanted = "wanted all, or numbers from 1 such as 3 or 6,9, each once"
        raise ConfigError(option, [f"got {text!r}, {wanted}"])
    return [int(word) for word in words]


def compute_frames(
    extractor: Extractor,
    data: str | Path,
    split: str,
    device: torch.device,
    batch_seconds: float | None = None,
) -> UtteranceFrames:
    """The frames that an extractor computes of a split of a data folder. Raises: ManifestError.

    batch_seconds: see `base.batch_samples`.
    """
    return computed(open_split(data, split), extractor, batch_samples(batch_seconds, device))

"""What the subcommands of offline targets work on: splits of a data folder, features by name or stored."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq_mtssl.cli.target_options import FEATURES
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, normalise, read_audio
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.data.manifest import utterance_ids as utterance_ids
from fairseq_mtssl.errors import AudioError, ConfigError, TargetError
from fairseq_mtssl.files import sha256_of, write_text

if TYPE_CHECKING:
    import torch

    from fairseq_mtssl.features.layers import Features, LayerStack
    from fairseq_mtssl.labels.kmeans import Codebook
    from fairseq_mtssl.labels.pipeline import Source, Split

FEATURES_FILE = "features.json"


def batch_samples(seconds: float | None, device: torch.device) -> int | None:
    """--batch-seconds in samples; None: one by one."""
    if seconds is None:
        seconds = 400.0 if device.type == "cuda" else 0.0
    return round(seconds * SAMPLE_RATE_HZ) if seconds > 0 else None


def find_splits(data: str | Path, names: str | None) -> list[str]:
    """The names given, or every `{name}.tsv` of a folder that is a manifest, train first.

    Raises: ConfigError if there is none.
    """
    if names is not None:
        found = [name.strip() for name in names.split(",") if name.strip()]
        if not found or len(set(found)) < len(found):
            raise ConfigError("--splits", [f"got {names!r}, wanted names such as train,valid, each once"])
        return found
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
    """A split of a data folder, its audio read when asked for. Raises: ManifestError."""
    from fairseq_mtssl.labels.pipeline import Split

    manifest = read_audio_manifest(Path(data) / f"{name}.tsv")
    rows = "\n".join(f"{file}\t{size}" for file, size in zip(manifest.files, manifest.sizes.tolist()))
    digest = hashlib.sha256(rows.encode()).hexdigest()
    return Split(name, manifest.sizes, lambda row: read_row(manifest, row), digest)


def read_row(manifest: AudioManifest, row: int) -> np.ndarray:
    """(S,) float32 of a row. Raises: AudioError if it is unreadable or not so long as the manifest says."""
    path = manifest.audio_path(row)
    wav = read_audio(path)
    if len(wav) != manifest.sizes[row]:
        got = f"{len(wav)} samples, but {manifest.sizes[row]} on line {row + 2} of {manifest.path}"
        raise AudioError(path, got, "Make the manifest again.")
    return wav


def open_features(
    text: str, device: torch.device, precision: str = "float32", random_seed: int | None = None
) -> Features:
    """What --features names.

    random_seed: of an untrained network of the checkpoint's sizes, in place of its weights.
    Raises: ConfigError, CheckpointError.
    """
    from fairseq_mtssl.features.filterbanks import LogMel
    from fairseq_mtssl.features.layers import LayerFeatures
    from fairseq_mtssl.features.mfcc import Mfcc

    if text in ("mfcc", "mfcc-cmn", "log-mel"):
        if precision == "bfloat16":
            raise ConfigError("--precision", [f"is of a checkpoint's layers; {text} is always in float32"])
        if random_seed is not None:
            raise ConfigError("--random-weights", [f"{text} has no weights; give CHECKPOINT:LAYER"])
        return LogMel() if text == "log-mel" else Mfcc(centred=text == "mfcc-cmn")
    path, _, layer = text.rpartition(":")
    if not path or not layer.isdecimal():
        raise ConfigError("--features", [f"got {text!r}, wanted {FEATURES}, such as checkpoint_best.pt:6"])
    prepare, model, source = _open_upstream(path) if random_seed is None else _untrained(path, random_seed)
    return LayerFeatures(
        model, int(layer), prepare=prepare, source=source, device=device, precision=precision
    )


def open_layers(
    path: str | Path, layers: Sequence[int] | None, device: torch.device, random_seed: int | None = None
) -> LayerStack:
    """Layers of a checkpoint out of one pass, None: all; random_seed: of a network of its sizes, untrained.

    Raises: ConfigError, CheckpointError.
    """
    from fairseq_mtssl.features.layers import LayerStack

    prepare, model, source = _open_upstream(path) if random_seed is None else _untrained(path, random_seed)
    return LayerStack(model, layers, prepare=prepare, source=source, device=device)


def _open_upstream(path: str | Path) -> tuple[Callable[[np.ndarray], np.ndarray], Any, dict[str, Any]]:
    """What its training did to a waveform, the model, and what it is."""
    from fairseq_mtssl import checkpoints

    upstream = checkpoints.load_upstream(path)
    source = {"features": "layer", "model": upstream.name, "checkpoint_sha256": sha256_of(Path(path))}
    return normalise if upstream.normalised else np.asarray, upstream.model, source


def _untrained(path: str | Path, seed: int) -> tuple[Callable[[np.ndarray], np.ndarray], Any, dict[str, Any]]:
    """As `_open_upstream`, an encoder of the checkpoint's sizes as it is before any training."""
    import torch

    from fairseq_mtssl.checkpoints import read_encoder
    from fairseq_mtssl.modules.encoder_options import EncoderSizes
    from fairseq_mtssl.modules.speech_encoder import SpeechEncoder

    found = read_encoder(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torch.nn.Module()
        model.speech_encoder = SpeechEncoder(EncoderSizes.of_plain(found.sizes))
    source = {"features": "layer", "model": "random", "seed": seed}
    return normalise if found.normalised else np.asarray, model, source


def note_features(folder: Path, about: dict[str, Any]) -> None:
    """Say beside stored features what they are. Raises: TargetError if the folder holds others."""
    path = folder / FEATURES_FILE
    if path.is_file() and read_json(path) != about:
        raise TargetError(path, [f"holds {read_json(path)}, now asked for {about}. Give another --out."])
    write_text(path, json.dumps(about, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Raises: TargetError if the file is absent or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(path, [f"cannot be read ({error}). Write its folder again."]) from error


def open_source(args: argparse.Namespace, device: torch.device) -> tuple[Source, dict[str, Any]]:
    """The frames of --split, stored or computed, and what they are.

    Stored ones stand for themselves: each utterance is as long as its .len says.
    Raises: ConfigError unless either --stored, or --data with --features, is given.
    """
    from fairseq_mtssl.features import stored
    from fairseq_mtssl.labels import pipeline

    if (args.stored is None) == (args.data is None or args.features is None):
        raise ConfigError("--stored", ["give either --stored DIR, or --data DIR with --features F"])
    if args.stored is None:
        features = open_features(args.features, device, args.precision)
        split = open_split(args.data, args.split)
        return pipeline.Source(split, features, batch_samples(args.batch_seconds, device)), pipeline.describe(
            features
        )
    folder = Path(args.stored)
    about = read_json(folder / FEATURES_FILE)
    lengths = stored.FeatureShards(folder, args.split).lengths
    # as many samples as give so many frames
    sizes = np.where(lengths > 0, (lengths - 1) * about["hop_samples"] + about["window_samples"], 0)
    split = pipeline.Split(args.split, sizes, _no_audio, "")
    return pipeline.Source(split, None, None, folder), about


def _no_audio(row: int) -> np.ndarray:
    raise ConfigError("--stored", [f"row {row + 1} is not stored; dump features of the whole split"])


def other_splits(folder: Path, codebook: Codebook) -> dict[str, Any]:
    """Entries of targets.json for splits labelled before by the same codebook.

    Raises: TargetError if the folder holds labels of another codebook.
    """
    from fairseq_mtssl.labels.folder import TARGETS

    path = folder / TARGETS
    if not path.is_file():
        return {}
    about = read_json(path)
    if (about.get("source"), about.get("kmeans")) != (codebook.source, codebook.fit):
        raise TargetError(path, ["is of another codebook. Give another --out for these labels."])
    return about["splits"]

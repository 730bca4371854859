"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from fairseq_mtssl.features.utterances import UtteranceFrames
    from fairseq_mtssl.labels.pipeline import Recipe

FEATURES = (
    "mfcc, mfcc-cmn (less the mean of each utterance), log-mel (80 filterbanks, normalised per utterance), "
    "or CHECKPOINT:LAYER, layers counted from 1"
)
PRECISIONS = ("float32", "bfloat16", "auto")  # of modules.precision, which is slow to import
BACKENDS = ("auto", "faiss", "torch", "sklearn")  # of labels.kmeans, which is slow to import


class Renamed(argparse.Action):
    """An option whose last name is an earlier one, which still works with a warning."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string == self.option_strings[-1]:
            print(f"{option_string} is now called {self.option_strings[0]}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --batch-size and --device."""
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="checkpoint that training saved")
    parser.add_argument(
        "--batch-size", type=positive_int, default=32, metavar="N", help="clips or images at once (32)"
    )
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is any"
    )


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """--device and --batch-seconds."""
    add_device_argument(parser)
    parser.add_argument(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="audio put through the model at once, with its padding; 0: one utterance at a time, which is "
        "fastest on a CPU (400 with CUDA, else 0)",
    )


def add_random_argument(parser: argparse.ArgumentParser) -> None:
    """--random-weights."""
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="a network of the checkpoint's sizes, untrained, of --seed",
    )


def random_seed(args: argparse.Namespace) -> int | None:
    """The seed of an untrained network, None where the checkpoint's weights are wanted."""
    return int(args.seed) if args.random_weights else None


def name_and_path(text: str) -> tuple[str, Path]:
    """`NAME=RUN` -> (NAME, RUN), `RUN` -> ("", RUN)."""
    # the first "=": folders of sweeps have one in their names, too
    name, _, path = ("", "", text) if "=" not in text or Path(text).exists() else text.partition("=")
    return name, Path(path)


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number, at least 1")
    return number


def add_data_argument(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--data."""
    parser.add_argument("--data", required=required, metavar="DIR", help="folder of {split}.tsv manifests")


def add_feature_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--features, --precision, --device and --batch-seconds."""
    parser.add_argument("--features", required=required, metavar="F", help=FEATURES)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="what a checkpoint's layers multiply matrices in (float32); bfloat16: about twice as fast, "
        "features off by a per cent; auto: bfloat16 where the processor or the GPU has instructions for it",
    )
    add_compute_arguments(parser)


def add_kmeans_arguments(parser: argparse.ArgumentParser) -> None:
    """--clusters, --seed, --kmeans and --sample-frames."""
    parser.add_argument(
        "--clusters", required=True, type=positive_int, metavar="K", help="labels to tell apart"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of k-means (0)")
    parser.add_argument(
        "--kmeans",
        choices=BACKENDS,
        default="auto",
        help="auto: faiss, on a GPU if there is one, and torch where faiss is not",
    )
    parser.add_argument(
        "--sample-frames",
        type=positive_int,
        metavar="N",
        help="frames that k-means sees, all in memory (400 MB worth: 2.5M MFCCs, 130k of 768 dimensions)",
    )


def add_stored_argument(parser: argparse.ArgumentParser) -> None:
    """--stored."""
    parser.add_argument(
        "--stored", metavar="DIR", help="folder of dump-features, in place of --data and --features"
    )


def add_shard_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """--split, --shard and --out. verb: what is done to the split."""
    parser.add_argument("--split", default="train", help=f"split to {verb} (train)")
    parser.add_argument("--shard", default="0/1", metavar="R/N", help="one of N parts, from 0 (0/1)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")


def open_frames(args: argparse.Namespace, device: torch.device) -> UtteranceFrames:
    """The frames of --split: those of --stored, or those that --features computes of --data.

    Raises: ConfigError unless one of the two ways is given; MtsslError for input that cannot be used.
    """
    from fairseq_mtssl.features.opening import compute_frames, open_features
    from fairseq_mtssl.features.utterances import stored

    folder = getattr(args, "stored", None)
    if (folder is None) == (args.data is None or args.features is None):
        raise ConfigError("--stored", ["give either --stored DIR, or --data DIR with --features F"])
    if folder is not None:
        return stored(Path(folder), args.split)
    extractor = open_features(args.features, device, args.precision)
    return compute_frames(extractor, args.data, args.split, device, args.batch_seconds)


def kmeans_recipe(args: argparse.Namespace, **more: Any) -> Recipe:
    """What `add_kmeans_arguments` asks for. more: further fields of the recipe."""
    from fairseq_mtssl.labels.pipeline import Recipe

    return Recipe(args.clusters, args.seed, sample_frames=args.sample_frames, kmeans=args.kmeans, **more)


def format_fit(clusters: int, fit: dict[str, Any]) -> str:
    """A line about a codebook. fit: `Codebook.fit`."""
    what = f"{clusters} clusters of {fit['frames']} frames by {fit['backend']}"
    return f"{what}, mean squared distance {fit['inertia']:.6g}"

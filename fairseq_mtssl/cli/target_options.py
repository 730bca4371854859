"""Options that the commands for cluster labels share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fairseq_mtssl.cli.options import add_compute_arguments, positive_int

if TYPE_CHECKING:
    import torch

    from fairseq_mtssl.features.utterances import UtteranceFrames

FEATURES = (
    "mfcc, mfcc-cmn (less the mean of each utterance), log-mel (80 filterbanks, normalised per utterance), "
    "or CHECKPOINT:LAYER, layers counted from 1"
)
PRECISIONS = ("float32", "bfloat16", "auto")  # of modules.precision, which is slow to import
BACKENDS = ("auto", "faiss", "torch", "sklearn")  # of labels.kmeans, which is slow to import


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


def open_frames(args: argparse.Namespace, device: torch.device) -> UtteranceFrames:
    """The frames of --split, computed or stored. Raises: MtsslError, see `features.opening.open_frames`."""
    from fairseq_mtssl.features import opening

    return opening.open_frames(
        args.split,
        device,
        data=args.data,
        features=args.features,
        stored_folder=getattr(args, "stored", None),
        precision=args.precision,
        batch_seconds=args.batch_seconds,
    )

"""`mtssl make-targets`: k-means labels of every split, from waveforms to targets.json, in one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_mtssl.cli.options import (
    add_data_argument,
    add_feature_arguments,
    add_kmeans_arguments,
    add_random_argument,
    format_fit,
    kmeans_recipe,
    random_seed,
)
from fairseq_mtssl.errors import ConfigError

HELP = "make targets: features, one codebook, labels of every split; run again to continue after a stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_data_argument(parser)
    add_feature_arguments(parser)
    add_kmeans_arguments(parser)
    add_random_argument(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--splits", metavar="A,B", help="splits to label (every manifest of --data)")
    parser.add_argument("--fit-split", default="train", help="split that the codebook is learned on (train)")
    parser.add_argument(
        "--store-features", action="store_true", help="also keep the features, in OUT/features (large)"
    )
    parser.add_argument(
        "--shard-minutes",
        type=float,
        default=30.0,
        metavar="M",
        help="audio that a stop loses at most (30)",
    )


def run(args: argparse.Namespace) -> int:
    """Make the labels, or continue after a stop, and print a summary."""
    from fairseq_mtssl.data.manifest import find_splits
    from fairseq_mtssl.features.opening import compute_frames, open_features
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.labels.pipeline import make_targets

    if not args.shard_minutes > 0:
        raise ConfigError("--shard-minutes", [f"got {args.shard_minutes}, wanted more than 0"])
    device = pick_device(args.device)
    names = find_splits(args.data, args.splits)
    recipe = kmeans_recipe(
        args,
        fit_split=args.fit_split,
        store_features=args.store_features,
        shard_minutes=args.shard_minutes,
    )
    extractor = open_features(args.features, device, args.precision, random_seed(args))
    splits = [compute_frames(extractor, args.data, name, device, args.batch_seconds) for name in names]
    about = make_targets(splits, Path(args.out), recipe, device)
    print(format_summary(about))
    print(f"wrote {args.out}")
    return 0


def format_summary(about: dict[str, Any]) -> str:
    """A line for the codebook and one for each split."""
    lines = [f"codebook: {format_fit(about['clusters'], about['kmeans'])}"]
    for name, split in about["splits"].items():
        lines.append(
            f"{name}: {split['utterances']} utterances, {split['frames']} labels at {about['rate_hz']:g} Hz, "
            f"{split['labels_used']} of {about['clusters']} used"
        )
        if split["without_frames"]:
            lines[-1] += f"; {split['without_frames']} too short for a frame have an empty line"
    return "\n".join(lines)

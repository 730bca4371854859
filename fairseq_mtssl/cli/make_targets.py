"""`mtssl make-targets`: k-means labels of every split, from waveforms to targets.json, in one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_mtssl.cli.options import add_random_argument, pick_device, random_seed
from fairseq_mtssl.cli.target_options import add_data_argument, add_feature_arguments, add_kmeans_arguments
from fairseq_mtssl.errors import ConfigError

HELP = "make offline targets: features, one codebook, labels of every split; run again to go on after a stop"


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
        "--shard-minutes", type=float, default=30.0, metavar="M", help="audio that a stop can cost (30)"
    )


def run(args: argparse.Namespace) -> int:
    """Make, or go on making, and say what came out."""
    from fairseq_mtssl.data.manifest import find_splits
    from fairseq_mtssl.data.splits import open_split
    from fairseq_mtssl.features.base import batch_samples
    from fairseq_mtssl.features.opening import open_features
    from fairseq_mtssl.features.utterances import computed
    from fairseq_mtssl.labels.pipeline import Recipe, make_targets

    if not args.shard_minutes > 0:
        raise ConfigError("--shard-minutes", [f"got {args.shard_minutes}, wanted more than 0"])
    device = pick_device(args.device)
    splits = [open_split(args.data, name) for name in find_splits(args.data, args.splits)]
    recipe = Recipe(
        clusters=args.clusters,
        seed=args.seed,
        fit_split=args.fit_split,
        sample_frames=args.sample_frames,
        kmeans=args.kmeans,
        store_features=args.store_features,
        shard_minutes=args.shard_minutes,
    )
    extractor = open_features(args.features, device, args.precision, random_seed(args))
    batch = batch_samples(args.batch_seconds, device)
    about = make_targets(
        [computed(split, extractor, batch) for split in splits], Path(args.out), recipe, device
    )
    print(format_summary(about))
    print(f"wrote {args.out}")
    return 0


def format_summary(about: dict[str, Any]) -> str:
    """A line for the codebook and one for each split."""
    fit = about["kmeans"]
    lines = [
        f"codebook: {about['clusters']} clusters of {fit['frames']} frames by {fit['backend']}, "
        f"mean squared distance {fit['inertia']:.6g}"
    ]
    for name, split in about["splits"].items():
        lines.append(
            f"{name}: {split['utterances']} utterances, {split['frames']} labels at {about['rate_hz']:g} Hz, "
            f"{split['labels_used']} of {about['clusters']} used"
        )
        if split["without_frames"]:
            lines[-1] += f"; {split['without_frames']} too short for a frame have an empty line"
    return "\n".join(lines)

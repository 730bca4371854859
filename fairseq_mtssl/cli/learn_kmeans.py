"""`mtssl learn-kmeans`: a codebook from stored features, or straight from audio."""

from __future__ import annotations

import argparse

from fairseq_mtssl.cli.options import pick_device
from fairseq_mtssl.cli.target_options import (
    add_data_argument,
    add_feature_arguments,
    add_kmeans_arguments,
    add_stored_argument,
    open_frames,
)
from fairseq_mtssl.files import prepare_output

HELP = "learn a k-means codebook on a sample of a split's frames"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_stored_argument(parser)
    add_data_argument(parser, required=False)
    add_feature_arguments(parser, required=False)
    add_kmeans_arguments(parser)
    parser.add_argument("--split", default="train", help="split to learn on (train)")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="codebook to write, such as codebook.npy"
    )


def run(args: argparse.Namespace) -> int:
    """Sample, fit, save."""
    from fairseq_mtssl.labels.pipeline import fit_codebook

    out = prepare_output(args.out).with_suffix(".npy")
    device = pick_device(args.device)
    frames = open_frames(args, device)
    codebook = fit_codebook(
        frames,
        clusters=args.clusters,
        seed=args.seed,
        sample_frames=args.sample_frames,
        kmeans=args.kmeans,
        device=device,
    )
    codebook.save(out)
    fit = codebook.fit
    print(
        f"{args.clusters} clusters of {fit['frames']} frames by {fit['backend']}, "
        f"mean squared distance {fit['inertia']:.6g}"
    )
    print(f"wrote {out}")
    return 0

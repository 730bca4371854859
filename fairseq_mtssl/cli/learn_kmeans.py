"""`mtssl learn-kmeans`: a codebook from stored features, or straight from audio."""

from __future__ import annotations

import argparse

from fairseq_mtssl.cli.options import (
    add_data_argument,
    add_feature_arguments,
    add_kmeans_arguments,
    add_stored_argument,
    format_fit,
    kmeans_recipe,
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
    """Learn the codebook and save it."""
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.labels.pipeline import fit_codebook

    out = prepare_output(args.out).with_suffix(".npy")
    device = pick_device(args.device)
    codebook = fit_codebook(open_frames(args, device), kmeans_recipe(args), device)
    codebook.save(out)
    print(format_fit(args.clusters, codebook.fit))
    print(f"wrote {out}")
    return 0

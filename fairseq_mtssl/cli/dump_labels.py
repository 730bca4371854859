"""`mtssl dump-labels`: label a split, or one shard of it, by a codebook; the last shard merges them all."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairseq_mtssl.cli.options import (
    add_data_argument,
    add_feature_arguments,
    add_shard_arguments,
    add_stored_argument,
    open_frames,
)

HELP = "write {split}.km by a codebook, from stored features or straight from audio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_stored_argument(parser)
    add_data_argument(parser, required=False)
    add_feature_arguments(parser, required=False)
    parser.add_argument("--codebook", required=True, metavar="FILE", help="what learn-kmeans wrote")
    add_shard_arguments(parser, "label")
    parser.add_argument(
        "--merge", type=int, metavar="N", help="label nothing: only join N shards that lie in --out"
    )


def run(args: argparse.Namespace) -> int:
    """Label a shard; once all shards are there, merge them."""
    from fairseq_mtssl.features import stored
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.labels import pipeline
    from fairseq_mtssl.labels.kmeans import Codebook

    codebook, out, device = Codebook.load(args.codebook), Path(args.out), pick_device(args.device)
    rank, nshard = stored.parse_shard(args.shard) if args.merge is None else (None, args.merge)
    frames = open_frames(args, device)
    present, entry = pipeline.dump_labels(frames, codebook, out, rank, nshard, device)
    if entry is None:
        print(f"wrote {stored.shard_path(out, args.split, rank or 0, nshard, '.km')}; ", end="")
        print(f"{present} of {nshard} shards are there")
        return 0
    print(f"{args.split}: {entry['utterances']} utterances, {entry['frames']} labels")
    print(f"wrote {out / args.split}.km")
    return 0

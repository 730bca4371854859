"""`mtssl dump-labels`: label a split, or one shard of it, by a codebook; the last shard merges them all."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairseq_mtssl.cli.options import pick_device
from fairseq_mtssl.cli.target_options import (
    add_data_argument,
    add_feature_arguments,
    add_stored_argument,
    open_frames,
)
from fairseq_mtssl.errors import ConfigError

HELP = "write {split}.km by a codebook, from stored features or straight from audio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_stored_argument(parser)
    add_data_argument(parser, required=False)
    add_feature_arguments(parser, required=False)
    parser.add_argument("--codebook", required=True, metavar="FILE", help="what learn-kmeans wrote")
    parser.add_argument("--split", default="train", help="split to label (train)")
    parser.add_argument("--shard", default="0/1", metavar="R/N", help="one of N parts, from 0 (0/1)")
    parser.add_argument(
        "--merge", type=int, metavar="N", help="label nothing: only join N shards that lie in --out"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Label a shard; when all are there, join them, every count verified."""
    from fairseq_mtssl.features import stored
    from fairseq_mtssl.labels import pipeline
    from fairseq_mtssl.labels.kmeans import Codebook
    from fairseq_mtssl.labels.quantizer import Quantizer

    codebook = Codebook.load(args.codebook)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    device = pick_device(args.device)
    rank, nshard = stored.parse_shard(args.shard) if args.merge is None else (0, args.merge)
    if nshard < 1:
        raise ConfigError("--merge", [f"got {nshard}, wanted the number of shards"])
    frames = open_frames(args, device)
    if frames.about != codebook.source:
        got = f"learned on {codebook.source}, but the features are {frames.about}"
        raise ConfigError("--codebook", [f"{got}. Learn a codebook on these features"])
    if args.merge is None:
        pipeline.label_shard(frames, Quantizer(codebook.centroids, device), out, rank, nshard)
        paths = [stored.shard_path(out, args.split, each, nshard, ".km") for each in range(nshard)]
        there = sum(path.is_file() for path in paths)
        if there < nshard:
            print(f"wrote {paths[rank]}; {there} of {nshard} shards are there")
            return 0
    entry = pipeline.merge_split(frames, codebook, out, out, nshard)
    pipeline.finish(out, codebook, pipeline.labelled_splits(out, codebook) | {args.split: entry}, {})
    print(f"{args.split}: {entry['utterances']} utterances, {entry['frames']} labels")
    print(f"wrote {out / args.split}.km")
    return 0

"""`mtssl dump-features`: store the features of a split, or of one shard of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fairseq_mtssl.cli.options import pick_device
from fairseq_mtssl.cli.target_options import add_data_argument, add_feature_arguments, open_frames

HELP = "store features of a split as {split}_{rank}_{nshard}.npy and .len"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_data_argument(parser)
    add_feature_arguments(parser)
    parser.add_argument("--split", default="train", help="split to dump (train)")
    parser.add_argument("--shard", default="0/1", metavar="R/N", help="one of N parts, from 0 (0/1)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Dump one shard and note beside it what the features are."""
    from fairseq_mtssl.features import stored
    from fairseq_mtssl.labels.pipeline import dump_shard

    rank, nshard = stored.parse_shard(args.shard)
    frames = open_frames(args, pick_device(args.device))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    stored.write_description(out, frames.about)
    utterances = dump_shard(frames, out, rank, nshard)
    print(f"{utterances} utterances, {json.dumps(frames.about)}")
    print(f"wrote {stored.shard_path(out, args.split, rank, nshard, '.npy')}")
    return 0

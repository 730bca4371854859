"""`mtssl dump-features`: store the features of a split, or of one shard of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairseq_mtssl.cli.options import (
    add_data_argument,
    add_feature_arguments,
    add_shard_arguments,
    open_frames,
)

HELP = "store features of a split as {split}_{rank}_{nshard}.npy and .len"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_data_argument(parser)
    add_feature_arguments(parser)
    add_shard_arguments(parser, "dump")


def run(args: argparse.Namespace) -> int:
    """Store one shard, with a description of the features beside it."""
    from fairseq_mtssl.features import stored
    from fairseq_mtssl.features.utterances import dump_shard
    from fairseq_mtssl.inference.devices import pick_device

    shard = stored.parse_shard(args.shard)
    frames = open_frames(args, pick_device(args.device))
    described = stored.write_description(Path(args.out), frames.about)
    print(f"{dump_shard(frames, Path(args.out), *shard)} utterances, {described}")
    print(f"wrote {stored.shard_path(Path(args.out), args.split, *shard, '.npy')}")
    return 0

"""`mtssl evaluate-abx`: phone discrimination, within and across speakers, of layers, features or units."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_mtssl.cli.options import (
    FEATURES,
    Renamed,
    add_compute_arguments,
    add_random_argument,
    random_seed,
)
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation

if TYPE_CHECKING:
    import torch

    from fairseq_mtssl.features.utterances import UtteranceFrames

NAME = "abx"
HELP = "measure ABX phone discrimination: each layer of a checkpoint, features or units"
DISTANCES = ("angular", "euclidean", "kl")  # of evaluation.frame_distance, which is slow to import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--checkpoint", metavar="FILE", help="layers of this model, all from one pass (see --layer)"
    )
    what.add_argument("--features", metavar="F", help=f"{FEATURES}; or a folder that dump-features wrote")
    what.add_argument(
        "--units", metavar="DIR", help="labels that make-targets wrote; equal ones are at 0, others at 1"
    )
    parser.add_argument("--layer", metavar="N,M", help="with --checkpoint: layers from 1, or all (all)")
    add_random_argument(parser)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of {split}.tsv manifests")
    parser.add_argument(
        "--item",
        required=True,
        metavar="FILE",
        help="ABX items: file, onset, offset, phone, previous, next, speaker a line, below a header",
    )
    parser.add_argument("--split", help="split that the items are of (named as the item file)")
    parser.add_argument(
        "--slicing",
        choices=("exact", "librilight"),
        default="exact",
        help="frames of an item; librilight ends one frame short, as ZeroSpeech 2021's numbers (exact)",
    )
    parser.add_argument("--distance", choices=DISTANCES, help="of two frames (angular)")
    parser.add_argument(
        "--context",
        choices=("within", "any"),
        default="within",
        help="compare phones between the same neighbours, or, for items of single phones, any (within)",
    )
    parser.add_argument(
        "--max-tokens-per-group", type=int, default=10, metavar="N", help="drawn at random; 0: all (10)"
    )
    parser.add_argument(
        "--max-x-across",
        "--max-x-speakers",
        action=Renamed,
        type=int,
        default=5,
        metavar="N",
        help="speakers that X is taken from for each A, across speakers; 0: all (5)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of both draws and of random weights (0)")
    add_compute_arguments(parser)


def run(args: argparse.Namespace) -> EvaluationResult:
    """Measure the frames that the options name."""
    from fairseq_mtssl.data.manifest import utterance_ids
    from fairseq_mtssl.evaluation.abx_cells import Subsampler
    from fairseq_mtssl.evaluation.abx_items import read_items, rows_of_files
    from fairseq_mtssl.inference.abx import Comparison, measure_abx
    from fairseq_mtssl.inference.devices import pick_device

    check(args)
    split, device = args.split or Path(args.item).stem, pick_device(args.device)
    items = read_items(args.item)
    rows = rows_of_files(items, utterance_ids(args.data, split), str(Path(args.data) / f"{split}.tsv"))
    frames = open_frames(args, split, device)
    distance = args.distance or ("angular" if args.units is None else "units")
    sampling = Subsampler(args.max_tokens_per_group or None, args.max_x_across or None, args.seed)
    comparison = Comparison(args.context, args.slicing, distance, sampling)
    return EvaluationResult(*measure_abx(frames, items, rows, comparison, device))


def check(args: argparse.Namespace) -> None:
    """Raises: ConfigError with every option that does not go with the others."""
    errors = []
    if args.layer is not None and args.checkpoint is None:
        errors.append("--layer goes with --checkpoint; write --features CHECKPOINT:LAYER for one layer")
    if args.random_weights and args.checkpoint is None:
        errors.append("--random-weights goes with --checkpoint, whose sizes the network has")
    if args.distance is not None and args.units is not None:
        errors.append("--units has its own distance, 0 or 1; leave --distance out")
    limits = {"--max-tokens-per-group": args.max_tokens_per_group, "--max-x-across": args.max_x_across}
    errors += [f"{name}: got {limit}, wanted 0 (all) or more" for name, limit in limits.items() if limit < 0]
    if errors:
        raise ConfigError("evaluate-abx", errors)


def open_frames(args: argparse.Namespace, split: str, device: torch.device) -> UtteranceFrames:
    """What --checkpoint, --features or --units names. Raises: ConfigError, CheckpointError, TargetError."""
    from fairseq_mtssl.data.splits import open_split
    from fairseq_mtssl.features.opening import compute_frames, open_features, open_layers, parse_layers
    from fairseq_mtssl.features.utterances import stored
    from fairseq_mtssl.labels.measuring import units

    if args.units is not None:
        return units(args.units, args.data, split)
    if args.checkpoint is not None:
        layers = parse_layers(args.layer, "--layer")
        extractor = open_layers(args.checkpoint, layers, device, random_seed=random_seed(args))
        return compute_frames(extractor, args.data, split, device, args.batch_seconds)
    if Path(args.features).is_dir():
        return stored(Path(args.features), split, open_split(args.data, split))
    return compute_frames(open_features(args.features, device), args.data, split, device, args.batch_seconds)


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))

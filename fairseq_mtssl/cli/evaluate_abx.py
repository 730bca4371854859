"""`mtssl evaluate-abx`: phone discrimination, within and across speakers, of layers, features or units."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.cli.options import (
    Renamed,
    add_compute_arguments,
    add_random_argument,
    pick_device,
    random_seed,
)
from fairseq_mtssl.cli.target_options import FEATURES
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
    """Measure."""
    check(args)
    return EvaluationResult(*evaluate(args))


def check(args: argparse.Namespace) -> None:
    """Raises: ConfigError with every option that does not go with the others."""
    errors = []
    if args.layer is not None and args.checkpoint is None:
        errors.append("--layer goes with --checkpoint; write --features CHECKPOINT:LAYER for one layer")
    if args.random_weights and args.checkpoint is None:
        errors.append("--random-weights goes with --checkpoint, whose sizes the network has")
    if args.distance is not None and args.units is not None:
        errors.append("--units has its own distance, 0 or 1; leave --distance out")
    for name in ("max_tokens_per_group", "max_x_across"):
        if getattr(args, name) < 0:
            errors.append(f"--{name.replace('_', '-')}: got {getattr(args, name)}, wanted 0 (all) or more")
    if errors:
        raise ConfigError("evaluate-abx", errors)


def evaluate(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The table and what --json writes. Raises: MtsslError of whatever does not fit."""
    import torch
    from tqdm import tqdm

    from fairseq_mtssl.data.manifest import utterance_ids
    from fairseq_mtssl.evaluation import abx
    from fairseq_mtssl.evaluation.abx_cells import Subsampler
    from fairseq_mtssl.evaluation.abx_items import read_items, rows_of_files

    device = pick_device(args.device)
    items = read_items(args.item)
    split = args.split or Path(args.item).stem
    table = str(Path(args.data) / f"{split}.tsv")
    rows = rows_of_files(items, utterance_ids(args.data, split), table)
    frames = open_frames(args, split, device)
    sampling = Subsampler(args.max_tokens_per_group or None, args.max_x_across or None, args.seed)
    plan = abx.plan_abx(items, frames.rate_hz, frames.counts[rows], args.slicing, args.context, sampling)
    utterances = frames.read(rows[plan.file].tolist(), "frames")
    store = abx.collect_frames(plan, utterances, len(frames.names), frames.dim, frames.dtype)
    distance = "units" if args.units is not None else args.distance or "angular"
    bar = tqdm(frames.names, desc="ABX", disable=None, delay=1.0, leave=False)
    scores = {
        name: abx.score_abx(plan, torch.from_numpy(store[place]), distance, device)
        for place, name in enumerate(bar)
    }
    how = {
        "item": str(args.item),
        "split": split,
        "source": frames.about,
        "rate_hz": frames.rate_hz,
        "context": args.context,
        "slicing": args.slicing,
        "distance": distance,
        "max_tokens_per_group": sampling.max_tokens,
        "max_x_across": sampling.max_x_across,
        "seed": sampling.seed,
    }
    heading = f"split {split}: {distance}, {args.slicing}, {args.context} context, {frames.rate_hz:g} Hz"
    return f"{heading}\n{abx.format_table(scores, plan, frames.kind)}", {**how, **abx.to_json(scores, plan)}


def open_frames(args: argparse.Namespace, split: str, device: torch.device) -> UtteranceFrames:
    """What --checkpoint, --features or --units names. Raises: ConfigError, CheckpointError, TargetError."""
    from fairseq_mtssl.data.splits import open_split
    from fairseq_mtssl.features.base import batch_samples
    from fairseq_mtssl.features.opening import open_features, open_layers, parse_layers
    from fairseq_mtssl.features.utterances import computed, stored
    from fairseq_mtssl.labels.measuring import units

    if args.units is not None:
        return units(args.units, args.data, split)
    if args.features is not None and Path(args.features).is_dir():
        return stored(Path(args.features), split, open_split(args.data, split))
    if args.features is not None:
        extractor = open_features(args.features, device)
    else:
        layers = parse_layers(args.layer, "--layer")
        extractor = open_layers(args.checkpoint, layers, device, random_seed=random_seed(args))
    return computed(open_split(args.data, split), extractor, batch_samples(args.batch_seconds, device))


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))

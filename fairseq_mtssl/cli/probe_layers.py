"""`mtssl probe-layers`: a linear phone probe on every layer, out of one pass of the encoder."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from fairseq_mtssl.cli.options import (
    add_compute_arguments,
    add_random_argument,
    pick_device,
    positive_int,
    prepare_output,
)
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation

NAME = "phones"
HELP = "train a linear phone probe on every layer of a checkpoint and show where phones are told best"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", metavar="FILE", help="layers of this model, all from one pass")
    what.add_argument("--features", choices=("mfcc",), help="MFCCs with differences instead")
    add_random_argument(parser)
    parser.add_argument("--layers", metavar="N,M", help="layers from 1, or all (all)")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder that mtssl prepare aligned_phones wrote"
    )
    parser.add_argument("--plot", metavar="PNG", help="also draw accuracy and macro-F1 by layer")
    parser.add_argument(
        "--max-frames",
        type=positive_int,
        default=100_000,
        metavar="N",
        help="frames trained on, drawn at random where there are more (100000)",
    )
    parser.add_argument("--updates", type=positive_int, default=1000, metavar="N", help="of Adam (1000)")
    parser.add_argument(
        "--batch-frames", type=positive_int, default=1000, metavar="N", help="of an update (1000)"
    )
    parser.add_argument(
        "--lr", type=float, default=0.005, help="of the first update, falling linearly to 0 (0.005)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of frames, their order, random weights (0)")
    add_compute_arguments(parser)


def run(args: argparse.Namespace) -> EvaluationResult:
    """Train the probes and measure them."""
    check(args)
    if args.plot:
        from fairseq_mtssl.report.canvas import new_figure

        prepare_output(args.plot)
        new_figure(1.0, 1.0)  # told now, rather than after the training, if matplotlib is absent
    from fairseq_mtssl.report.layer_plot import draw_layers

    measured = probe_layers(args)
    draw = partial(draw_layers, measured, args.plot)
    return EvaluationResult(format_table(measured), measured, [draw] if args.plot else [])


def check(args: argparse.Namespace) -> None:
    """Raises: ConfigError with every option that does not go with the others."""
    errors = []
    if args.features and args.layers is not None:
        errors.append("--layers goes with --checkpoint; MFCCs have none")
    if args.features and args.random_weights:
        errors.append("--random-weights goes with --checkpoint; MFCCs have none")
    if not args.lr > 0:
        errors.append(f"--lr: got {args.lr}, wanted more than 0")
    if args.seed < 0:
        errors.append(f"--seed: got {args.seed}, wanted 0 or more")
    if errors:
        raise ConfigError("probe-layers", errors)


def probe_layers(args: argparse.Namespace) -> dict[str, Any]:
    """What --json writes: scores of each layer and split, and the layer that is best on valid.

    Raises: ManifestError for phones that do not fit, ConfigError, CheckpointError.
    """
    from fairseq_mtssl.cli import probe_sources
    from fairseq_mtssl.data.phones import read_phone_names
    from fairseq_mtssl.evaluation.probing import ProbeRecipe, train_probes

    device = pick_device(args.device)
    names = read_phone_names(probe_sources.dictionary_path(args.data))
    splits = probe_sources.open_splits(args.data, names)
    source = probe_sources.open_source(args, device)
    recipe = ProbeRecipe(args.updates, args.batch_frames, args.lr, args.seed)
    train = splits.pop("train")
    frames, labels = source.sample(train, args.max_frames, args.seed)
    probes = train_probes(frames, labels, len(names), recipe, device)
    del frames
    scores: dict[str, dict[str, Any]] = {layer: {} for layer in source.names}
    for name, split in splits.items():
        counts = probes.score(source.utterances(split))
        for layer, each in zip(source.names, counts, strict=True):
            scores[layer][name] = {"accuracy": each.accuracy(), "macro_f1": each.macro_f1()}
    best = max(source.names, key=lambda layer: scores[layer]["valid"]["accuracy"])
    return {
        "source": source.about,
        "phones": len(names),
        "train_frames": len(labels),
        "frames": {name: split.labelled_frames(source.hop, source.window) for name, split in splits.items()},
        "updates": recipe.updates,
        "batch_frames": recipe.batch_frames,
        "lr": recipe.lr,
        "seed": recipe.seed,
        "chance": probe_sources.chance(labels, splits, source),
        "scores": scores,
        "best": {"layer": best, **scores[best]},
    }


def format_table(measured: dict[str, Any]) -> str:
    """A row a layer: accuracy and macro-F1 of each split, the layer that is best on valid starred."""
    splits = list(measured["frames"])
    counted = ", ".join(f"{count} of {name}" for name, count in measured["frames"].items())
    lines = [
        f"{measured['phones']} phones, {measured['train_frames']} frames of train, {counted}",
        f"{'layer':<8}" + "".join(f"{name + ' acc %':>14}{'macro-F1 %':>12}" for name in splits),
    ]
    best = measured["best"]["layer"]
    for layer, row in measured["scores"].items():
        cells = "".join(f"{row[name]['accuracy']:>14.2f}{row[name]['macro_f1']:>12.2f}" for name in splits)
        lines.append(f"{layer:<8}{cells}{' *' if layer == best else ''}")
    cells = "".join(f"{measured['chance'][name]:>14.2f}{'':>12}" for name in splits)
    lines.append(f"{'chance':<8}{cells}".rstrip())
    lines.append("* best on valid; chance: always the phone most frequent in train")
    return "\n".join(lines)


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))

"""`mtssl probe-layers`: a linear phone probe on every layer, out of one pass of the encoder."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from fairseq_mtssl.cli.options import add_compute_arguments, add_random_argument, positive_int, random_seed
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation
from fairseq_mtssl.files import prepare_output

NAME = "phones"
HELP = "train a linear phone probe on every layer of a checkpoint and show which layer predicts phones best"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", metavar="FILE", help="layers of this model, all from one pass")
    what.add_argument("--features", choices=("mfcc",), help="MFCCs with differences instead")
    add_random_argument(parser)
    parser.add_argument("--layers", metavar="N,M", help="layers from 1, or all (all)")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder that manifests/aligned_phones.py wrote"
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
    from fairseq_mtssl.data.phones import read_phone_names, read_phone_splits
    from fairseq_mtssl.evaluation.probing import ProbeRecipe
    from fairseq_mtssl.features.base import Extractor
    from fairseq_mtssl.features.mfcc import Mfcc
    from fairseq_mtssl.features.opening import compute_frames, open_layers, parse_layers
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.inference.probing import probe_phones
    from fairseq_mtssl.report.canvas import new_figure
    from fairseq_mtssl.report.layer_plot import draw_layers

    check(args)
    if args.plot:
        prepare_output(args.plot)
        new_figure(1.0, 1.0)  # if matplotlib is absent, this is said before the training
    device = pick_device(args.device)
    names = read_phone_names(Path(args.data) / "dict.phn.txt")
    phones = read_phone_splits(args.data, names)
    extractor: Extractor = Mfcc()
    if args.checkpoint:
        layers = parse_layers(args.layers, "--layers")
        extractor = open_layers(args.checkpoint, layers, device, random_seed=random_seed(args))
    splits = {name: compute_frames(extractor, args.data, name, device, args.batch_seconds) for name in phones}
    recipe = ProbeRecipe(args.updates, args.batch_frames, args.lr, args.seed)
    scores = probe_phones(splits, phones, len(names), recipe, args.max_frames, device)
    measured = {"source": extractor.source, **scores}
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

"""`mtssl evaluate-retrieval`: R@k, P@k by label, median rank of a checkpoint on a split, both directions."""

from __future__ import annotations

import argparse
from functools import partial

from fairseq_mtssl.cli.options import add_model_arguments, positive_int
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation
from fairseq_mtssl.files import prepare_output

NAME = "retrieval"
HELP = "measure speech–image retrieval of a checkpoint on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder of {split}.tsv and {split}.pairs"
    )
    parser.add_argument("--split", default="test", help="split to measure (test)")
    parser.add_argument(
        "--relevance",
        choices=("image", "label"),
        default="image",
        help="what makes an image right for a caption: being its own (image), or having its label",
    )
    parser.add_argument("--gallery", metavar="PNG", help="also draw captions with the images they retrieve")
    parser.add_argument(
        "--gallery-rows", type=positive_int, default=8, metavar="N", help="captions drawn (8)"
    )


def run(args: argparse.Namespace) -> EvaluationResult:
    """Encode the split and score it."""
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.inference.retrieval import evaluate_split
    from fairseq_mtssl.report.retrieval_queries import draw_retrieved

    if args.gallery:
        prepare_output(args.gallery)
    device = pick_device(args.device)
    encoded, result = evaluate_split(
        args.checkpoint, args.data, args.split, args.relevance, args.batch_size, device
    )
    split = (encoded.manifest, encoded.speech, encoded.image)
    title = f"split {args.split}"
    draw = partial(draw_retrieved, *split, args.relevance, args.gallery_rows, args.gallery, title)
    return EvaluationResult(result.format_table(), result.to_json(), [draw] if args.gallery else [])


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))

"""`mtssl evaluate NAME`: run one of the registered evaluations, print its table and write its results."""

from __future__ import annotations

import argparse

from fairseq_mtssl.evaluation.base import EVALUATIONS
from fairseq_mtssl.files import prepare_output, write_json

HELP = "run an evaluation by its name, one of this package or of a plugin"


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add a subcommand for each registered evaluation. Returns: the parser."""
    evaluations = parser.add_subparsers(dest="evaluation", required=True, metavar="NAME")
    for name in EVALUATIONS.names():
        add_evaluation(evaluations, name, name)
    return parser


def add_evaluation(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], command: str, name: str
) -> None:
    """Add a subcommand, called `command`, that runs the evaluation `name`."""
    evaluation = EVALUATIONS.named(name)
    parser = commands.add_parser(command, help=evaluation.help, description=evaluation.help)
    evaluation.add_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    parser.set_defaults(run=run, evaluation=name)


def run(args: argparse.Namespace) -> int:
    """Measure, write the numbers if asked to, print the table, write what else was asked for."""
    if args.json:
        prepare_output(args.json)
    result = EVALUATIONS.named(args.evaluation).run(args)
    if args.json:
        write_json(args.json, result.numbers)
    print(result.table, flush=True)
    if args.json:
        print(f"wrote {args.json}")
    for write in result.files:
        print(f"wrote {write()}")
    return result.status

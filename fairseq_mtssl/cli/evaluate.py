"""`mtssl evaluate NAME`: run one of the registered evaluations, print its table and write its results."""

from __future__ import annotations

import argparse

from fairseq_mtssl.evaluation.base import EVALUATIONS
from fairseq_mtssl.files import prepare_output, write_json

HELP = "run an evaluation by its name, one of this package or of a plugin"


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add a subcommand for each registered evaluation. Returns: the parser."""
    evaluations = parser.add_subparsers(dest="evaluation", required=True, metavar="NAME")
    EVALUATIONS.add_commands(evaluations, add_evaluation)
    return parser


def add_evaluation(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: str | None = None
) -> None:
    """Add a subcommand that runs an evaluation. command: what it is called, if not as the evaluation."""
    evaluation = EVALUATIONS.named(name)
    parser = commands.add_parser(command or name, help=evaluation.help, description=evaluation.help)
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

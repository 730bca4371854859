"""`mtssl evaluate NAME`: run one of the registered evaluations, print its table and write its numbers."""

from __future__ import annotations

import argparse
from typing import Any

from fairseq_mtssl.cli import evaluate_abx as _evaluate_abx  # noqa: F401  (registers, as the others here)
from fairseq_mtssl.cli import evaluate_retrieval as _evaluate_retrieval  # noqa: F401
from fairseq_mtssl.cli import measure_targets as _measure_targets  # noqa: F401
from fairseq_mtssl.cli import probe_layers as _probe_layers  # noqa: F401
from fairseq_mtssl.cli import transcribe as _transcribe  # noqa: F401
from fairseq_mtssl.cli.options import prepare_output, write_json
from fairseq_mtssl.evaluation.base import EVALUATIONS

HELP = "run an evaluation by its name, one of this package or of a plugin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A subcommand for each registered evaluation."""
    evaluations = parser.add_subparsers(dest="evaluation", required=True, metavar="NAME")
    for name in EVALUATIONS.names():
        add_evaluation(evaluations, name, name)


def add_evaluation(commands: Any, command: str, name: str) -> None:
    """Add a subcommand that runs an evaluation.

    commands: what `add_subparsers` has returned. command, name: of the subcommand and of the evaluation.
    """
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

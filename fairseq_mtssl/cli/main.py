"""`mtssl`: evaluate, query and draw what was trained with fairseq-hydra-train.

A subcommand is a module with HELP, `add_arguments(parser)` and `run(args) -> exit status`, or one that
registers an evaluation under its NAME. Slow imports are made in `run`, so that help and `mtssl user-dir` are
quick.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from fairseq_mtssl.errors import MtsslError

COMMANDS = {
    "prepare": "prepare",
    "evaluate": "evaluate",
    "retrieve": "retrieve",
    "report": "report",
    "make-targets": "make_targets",
    "dump-features": "dump_features",
    "learn-kmeans": "learn_kmeans",
    "dump-labels": "dump_labels",
    "prepare-text": "prepare_text",
    "user-dir": "user_dir",
}
"""Name of a subcommand -> its module in `fairseq_mtssl.cli`."""
EVALUATION_COMMANDS = {
    "evaluate-retrieval": "evaluate_retrieval",
    "evaluate-abx": "evaluate_abx",
    "probe-layers": "probe_layers",
    "measure-targets": "measure_targets",
    "transcribe": "transcribe",
}
"""Name of a subcommand -> its module, which registers an evaluation; `mtssl evaluate NAME` does the same."""
USER_ERROR = 2  # what argparse exits with, too
INTERRUPTED = 130
PIPE_CLOSED = 141  # as a shell reports the signal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status. A user's error is one message without a traceback."""
    args = build_parser().parse_args(argv)
    # force: fairseq's tasks set the root logger to DEBUG when they are imported
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    # torch announces changes that will break fairseq's code; users of a model can do nothing about them
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except MtsslError as error:
        print(f"mtssl {args.command}: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        # the reader, such as `head`, has closed the pipe; files are written before anything is printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print(f"mtssl {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    parser = argparse.ArgumentParser(prog="mtssl", description=__doc__.split("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {name: import_module(f"fairseq_mtssl.cli.{stem}") for name, stem in COMMANDS.items()}
    for name, stem in EVALUATION_COMMANDS.items():
        evaluation = import_module(f"fairseq_mtssl.cli.{stem}").NAME
        modules["evaluate"].add_evaluation(commands, evaluation, name)
    for name, module in modules.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What an evaluation is, what it returns, and the registry of evaluations.

To add one, write a file that ends in `register_evaluation(Evaluation(NAME, HELP, add_arguments, run))`,
list it in `fairseq_mtssl/cli/main.py` or name it as a plugin, and run it with `mtssl evaluate NAME`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_mtssl.registry import Registry


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation returns.

    table: the text to print. numbers: what --json writes. files: functions that each write another file that
    was asked for, such as a plot, and return its path; they are called once the table is printed.
    status: the exit status of the command, which is not 0 if part of the input could not be used.
    """

    table: str
    numbers: dict[str, Any]
    files: Sequence[Callable[[], Path]] = ()
    status: int = 0


@dataclass(frozen=True)
class Evaluation:
    """A measurement that is run as `mtssl evaluate NAME`.

    name: as in the command. help: a line that says what is measured. add_arguments: adds its options to a
    parser, except --json, which all have. run: measures what the parsed options ask for; it imports what is
    slow to import, and raises MtsslError on what a user gave.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], EvaluationResult]


EVALUATIONS: Registry[Evaluation] = Registry("mtssl evaluate", "evaluation", "evaluations")


def register_evaluation(evaluation: Evaluation) -> None:
    """Make an evaluation known by its name. Raises: ConfigError if the name is taken."""
    EVALUATIONS.register(evaluation.name)(evaluation)

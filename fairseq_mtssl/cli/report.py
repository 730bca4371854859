"""`mtssl report`: the training curves of runs as a picture, or all about one run as a page."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fairseq_mtssl.cli import report_page, report_paper
from fairseq_mtssl.cli.options import name_and_path, prepare_output
from fairseq_mtssl.errors import ConfigError

if TYPE_CHECKING:
    from fairseq_mtssl.report.training_log import TrainingLog

HELP = "draw the losses of runs by update, or write all about one run as a page that can be heard and seen"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder or log file; NAME=RUN names its curve"
    )
    parser.add_argument("--out", metavar="PNG", help="picture to write (curves.png beside the first log)")
    parser.add_argument(
        "--phase",
        action="append",
        default=[],
        metavar="UPDATE:NAME",
        help="mark that a phase starts at an update; repeat. By default read from the log of a single run",
    )
    parser.add_argument("--paper", metavar="DIR", help=report_paper.HELP)
    report_page.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read the logs, draw."""
    report_page.check(args)
    if args.paper:
        return report_paper.run(args)
    from fairseq_mtssl.report.curves import draw_curves
    from fairseq_mtssl.report.training_log import phase_starts

    phases = [parse_phase(text) for text in args.phase]
    logs = read_runs(args.runs)
    first = next(iter(logs.values()))
    if not phases and len(logs) == 1:
        phases = phase_starts(first)
    for name, log in logs.items():
        if log.broken:
            print(f"{name}: left out {log.broken} broken lines of {log.path}", file=sys.stderr)
    if args.html is not None:
        return report_page.run(args, *name_and_path(args.runs[0]), first, phases)
    out = prepare_output(args.out or first.path.parent / "curves.png")
    draw_curves(logs, out, phases)
    print(f"wrote {out}")
    return 0


def read_runs(runs: list[str]) -> dict[str, TrainingLog]:
    """Legend name -> log. A run without a name is called after its folder, or in full where that is taken."""
    from fairseq_mtssl.report.training_log import read_training_log

    logs: dict[str, TrainingLog] = {}
    for text in runs:
        name, path = name_and_path(text)
        log = read_training_log(path)
        name = name or log.path.resolve().parent.name
        if name in logs:
            name = text
        if name in logs:
            raise ConfigError("runs", [f"{text!r} is given twice; give each run once, or as NAME=RUN"])
        logs[name] = log
    return logs


def parse_phase(text: str) -> tuple[int, str]:
    """`400:VGS` -> (400, "VGS"). Raises: ConfigError."""
    update, _, name = text.partition(":")
    if not update.isdecimal() or not name:
        raise ConfigError("--phase", [f"got {text!r}, wanted UPDATE:NAME such as 400:VGS"])
    return int(update), name

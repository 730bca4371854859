"""`mtssl user-dir`: the folder fairseq's own tools want as --user-dir."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = 'print the folder for fairseq\'s --user-dir, as in: fairseq-validate --user-dir "$(mtssl user-dir)" …'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Print the package's folder."""
    print(Path(__file__).resolve().parents[1])
    return 0

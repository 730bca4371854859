"""start_up.py, a stage at a time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from examples.benchmark import start_up
from examples.benchmark.sizes import SIZES


def stage(size: str, name: str, folder: str) -> dict[str, Any]:
    """name: of start_up.STAGES, in its order."""
    utterances, pairs = SIZES[size].start_up
    args = argparse.Namespace(utterances=utterances, mean_s=12.3, clusters=500, pairs=pairs, ranks=8)
    found: dict[str, Any] = getattr(start_up, start_up.STAGES[name])(args, Path(folder))
    return found

"""Runs `mtssl` and kills it at a point, then runs it again: `python killing.py FOLDER POINT… -- WORDS…`.

For each POINT, forks a process that runs `mtssl WORDS… --out FOLDER/POINT` and sends itself SIGKILL there,
and another that runs the same words to the end. Points: `before:NAME` and `after:NAME`, around the moment at
which file NAME takes its place; `read:N`, when the Nth recording is read; `clean`, amid the clearing up;
`never`.
Prints {point: [status, status]} as JSON, statuses as `os.waitstatus_to_exitcode` gives them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from fairseq_mtssl.cli import main, make_targets  # noqa: F401  before any fork
from fairseq_mtssl.data import splits
from fairseq_mtssl.labels import pipeline  # noqa: F401


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Make this process kill itself at a point."""
    kind, _, name = point.partition(":")
    replace, read, rmtree = os.replace, splits.read_audio, shutil.rmtree
    reads = 0

    def replace_and_die(source: Any, target: Any) -> None:
        here = Path(target).name == name
        if here and kind == "before":
            die()
        replace(source, target)
        if here and kind == "after":
            die()

    def read_and_die(path: Any) -> Any:
        nonlocal reads
        reads += 1
        if kind == "read" and reads == int(name):
            die()
        return read(path)

    def remove_one_and_die(path: Any, **_: Any) -> None:
        if kind != "clean":
            return rmtree(path, **_)
        sorted(Path(path).iterdir())[0].unlink()
        die()

    os.replace, splits.read_audio, shutil.rmtree = replace_and_die, read_and_die, remove_one_and_die


def run(point: str, words: list[str]) -> int:
    """The exit status of `mtssl words` in a process of its own."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        arm(point)
        os._exit(main.main(words))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    split = sys.argv.index("--")
    folder, points, words = Path(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :]
    statuses = {}
    for point in points:
        command = [*words, "--out", str(folder / point)]
        statuses[point] = [run(point, command), run("never", command)]
    print(json.dumps(statuses))

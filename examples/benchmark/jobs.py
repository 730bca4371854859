"""What may be asked for, and how it is done: at once, or a variant's sample at a time."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_mtssl.errors import MtsslError

SCRIPT = Path(__file__).with_name("run.py")
WORKERS = {
    "parity": "parity:check",
    "update": "updates:measure",
    "gemm": "machine:gemm",
    "dump": "dump:measure",
    "kmeans_rows": "offline:write_rows",
    "kmeans": "offline:kmeans",
    "mfcc": "offline:mfcc",
    "mfcc_parity": "offline:mfcc_parity",
    "abx": "scores:abx",
    "retrieval": "scores:retrieval",
    "joint": "joint:measure",
    "start_up": "starting:stage",
}
"""Name -> module:function of this folder. A function takes what JSON can hold; it gives a result, or those of
a variant make one sample after the other, without end."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """worker: of WORKERS; arguments: of its function; environment: set for its process alone."""

    worker: str
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def begin(job: Job) -> Generator[Result]:
    """Do it in this process: a result at a time, or {"not_measured": why}. One result, if it has but one."""
    module, _, function = WORKERS[job.worker].partition(":")
    try:
        found = getattr(importlib.import_module(f"examples.benchmark.{module}"), function)(**job.arguments)
        yield from [found] if isinstance(found, dict) else found
    except MtsslError as error:
        yield {"not_measured": str(error)}


def serve(asked: str) -> None:
    """What the process of a `Turns` does: a result for each line that it reads, until there are no more."""
    out, sys.stdout = sys.stdout, sys.stderr
    with contextlib.closing(begin(Job(**json.loads(asked)))) as results:
        for _ in sys.stdin:
            print(json.dumps(next(results)), file=out, flush=True)


class Turns:
    """A job in a process of its own, which is begun at the first turn and between turns waits.

    isolated: False: in this process.
    """

    def __init__(self, job: Job, isolated: bool = True) -> None:
        self.job = job
        self._here = None if isolated else begin(job)
        self._process: subprocess.Popen[str] | None = None

    def take(self) -> Result:
        """The next result, as of `begin`; {"not_measured", "failed"} where the process fails."""
        if self._here is not None:
            return next(self._here)
        process = self._process = self._process or self._start()
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):  # it has ended, as its output tells
            print(file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            return {"not_measured": f"its process ended with status {process.wait()}", "failed": True}
        return dict(json.loads(line))

    def close(self) -> None:
        """End it, and its process."""
        if self._here is not None:
            self._here.close()
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        asked = json.dumps({"worker": self.job.worker, "arguments": self.job.arguments})
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), "--work", asked],
            env={**os.environ, **self.job.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

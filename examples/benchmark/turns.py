"""Measurements in processes of their own, which take turns: one sample each while the others wait."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from examples.benchmark.parts import Job, Part
from fairseq_mtssl.errors import MtsslError

SCRIPT = Path(__file__).with_name("run.py")

Result = dict[str, Any]


def begin(job: Job) -> Generator[Result]:
    """Run a job in this process. Yields: its results one by one, or {"not_measured": why}."""
    module, _, function = job.worker.partition(":")
    try:
        results = getattr(importlib.import_module(f"examples.benchmark.{module}"), function)(**job.arguments)
        yield from [results] if isinstance(results, dict) else results
    except MtsslError as error:
        yield {"not_measured": str(error)}


def serve(asked: str) -> None:
    """Write a result for each line of the input. asked: the job as JSON. Runs in the process of a `Turns`."""
    out, sys.stdout = sys.stdout, sys.stderr
    with contextlib.closing(begin(Job(**json.loads(asked)))) as results:
        for _ in sys.stdin:
            print(json.dumps(next(results)), file=out, flush=True)


class Turns:
    """A job in a process of its own, which starts at the first turn and waits between turns.

    isolated: False runs the job in this process.
    """

    def __init__(self, job: Job, isolated: bool = True) -> None:
        self.job = job
        self._here = None if isolated else begin(job)
        self._process: subprocess.Popen[str] | None = None

    def take(self) -> Result:
        """The next result, as in `begin`; {"not_measured", "failed"} if the process fails."""
        if self._here is not None:
            return next(self._here)
        process = self._process = self._process or self._start()
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):  # the process has ended; its output is empty then
            print(file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            return {"not_measured": f"its process ended with status {process.wait()}", "failed": True}
        return dict(json.loads(line))

    def close(self) -> None:
        """End the job and its process."""
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


def measure(
    part: Part, rounds: int, start: Callable[[Job], Turns], facts: dict[str, Any], together: bool = True
) -> dict[str, Any]:
    """Run the jobs of a part.

    facts: job -> result of the facts of earlier parts, which are not measured again.
    together: whether the variants take turns, every other round backwards, so that a drift of the machine
        cancels. Otherwise a variant has all its rounds before the next one begins.
    Returns: {"facts", "records", "not_measured", "together"}.
    """
    found: dict[str, Any] = {"facts": {}, "records": [], "not_measured": {}, "together": together}
    for name, job in part.facts.items():
        key = repr(job) if name == "parity" else f"{part.name} {name}"
        if key not in facts:
            log(f"{part.name}: {name}")
            with contextlib.closing(start(job)) as once:
                facts[key] = once.take()
        found["facts"][name] = facts[key]
    variants = list(part.variants.items())
    for group in [variants] if together else [[each] for each in variants]:
        with contextlib.ExitStack() as stack:
            order = [(name, stack.enter_context(contextlib.closing(start(job)))) for name, job in group]
            for number in range(min(rounds, part.rounds or rounds)):
                for variant, turns in order if number % 2 == 0 else reversed(order):
                    if variant not in found["not_measured"]:
                        _take(part, variant, turns, number, found)
    return found


def _take(part: Part, variant: str, turns: Turns, number: int, found: dict[str, Any]) -> None:
    """Add the sample of a variant in a round, or the reason why there is none."""
    sample = turns.take()
    if "not_measured" in sample:
        found["not_measured"][variant] = sample
        return
    found["records"].append({"variant": variant, "round": number, **sample})
    log(f"{part.name}: round {number + 1}, {variant}: {sample['seconds']:.3g} s")


def log(text: str) -> None:
    """Print progress to the standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

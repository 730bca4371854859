"""One measurement in a process of its own: what may be asked for, and how it is run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
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
"""Name -> module:function of this folder; a function takes and gives what JSON can hold."""


@dataclass(frozen=True)
class Job:
    """worker: of WORKERS; arguments: of its function; environment: set for its process alone."""

    worker: str
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def work(job: Job) -> dict[str, Any]:
    """Do it in this process. Returns: what the function gives, or {"not_measured": why}."""
    module, _, function = WORKERS[job.worker].partition(":")
    try:
        found = getattr(importlib.import_module(f"examples.benchmark.{module}"), function)(**job.arguments)
    except MtsslError as error:
        return {"not_measured": str(error)}
    return dict(found)


def run(job: Job, isolated: bool = True) -> dict[str, Any]:
    """Do it, in a fresh process if isolated. Returns: as `work`; also where the process fails."""
    if not isolated:
        return work(job)
    asked = json.dumps({"worker": job.worker, "arguments": job.arguments})
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--work", asked],
        env={**os.environ, **job.environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        return {"not_measured": f"its process ended with status {done.returncode}", "failed": True}
    return dict(json.loads(done.stdout.splitlines()[-1]))

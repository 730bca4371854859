"""Freed memory is kept by a process, unless its environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults while 8 MB are freed and asked for again, with the allocator as the set-up of a task leaves it.
SCRIPT = """
import resource, sys, torch
from types import SimpleNamespace
from fairseq_mtssl.tasks.base import BaseTask
if sys.argv[1] == "yes":
    BaseTask(SimpleNamespace())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(2**20) for _ in range(2)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(used: str, **environment: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    path = os.pathsep.join(each for each in sys.path if each)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, used],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_is_freed_is_used_again_without_a_fault_of_a_page() -> None:
    assert faults("yes") < 100
    # two blocks of 4 MB are 2048 pages, each of which the system would clear
    assert faults("yes", MALLOC_TRIM_THRESHOLD_="131072") > 2048

"""Freed memory is kept by a process, unless its environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Errors of pages while 8 MB are freed and asked for again, with the allocator as the encoder leaves it.
SCRIPT = """
import resource, sys, torch
from tiny_mt4ssl import batch, build
if sys.argv[1] == "yes":
    given = batch([3_000])
    build().speech_encoder.front_end(given["source"], given["lengths"])
def errors():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(2**20) for _ in range(2)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
errors()
print(errors())
"""


def errors(used: str, **environment: str) -> int:
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
    assert errors("yes") < 100
    # two blocks of 4 MB are 2048 pages, each of which the system would clear
    assert errors("yes", MALLOC_TRIM_THRESHOLD_="131072") > 2048

"""How much of the machine other processes take while something is timed, and what this process holds."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

BUSY_CORES = 0.15
"""Other processes' share of a core above which a sample does not count."""
SHORTEST_S = 0.2  # the kernel counts in steps of 10 ms


class Timing:
    """Times a block: `seconds`, and `others`, the cores that other processes took meanwhile.

    device: waited for at both ends. watch: False where this process has busy children, whom the kernel
    counts late. others: None where the kernel does not tell (no /proc/stat) or the block was too short.
    """

    def __init__(self, device: torch.device | str = "cpu", watch: bool = True) -> None:
        self.device = torch.device(device)
        self.watch = watch
        self.seconds = 0.0
        self.others: float | None = None

    def __enter__(self) -> Timing:
        synchronise(self.device)
        self._busy, self._own = busy_seconds(), own_seconds()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        synchronise(self.device)
        self.seconds = time.perf_counter() - self._began
        busy, own = busy_seconds(), own_seconds()
        if self.watch and busy is not None and self._busy is not None and self.seconds >= SHORTEST_S:
            self.others = max(0.0, (busy - self._busy - (own - self._own)) / self.seconds)

    def sample(self, **more: Any) -> dict[str, Any]:
        """What goes into the report."""
        others = None if self.others is None else round(self.others, 3)
        return {"seconds": self.seconds, "others": others, **more}


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Core seconds that all processes have used since the machine started; None where it is not told.

    With what a hypervisor has taken away.
    """
    try:
        fields = stat.read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, steal = (int(each) for each in fields[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / 100


def own_seconds() -> float:
    """Core seconds of this process and of its finished children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_mb(device: torch.device | str = "cpu") -> dict[str, float]:
    """The most that this process has held so far: resident, and of a GPU allocated."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    peak = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    device = torch.device(device)
    if device.type == "cuda":
        peak = {"peak_mb": torch.cuda.max_memory_allocated(device) / 1e6, "host_peak_mb": peak["peak_mb"]}
    return peak

"""The machine: timing, what other processes take of it, its description, the peak of its matrix products."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from examples.benchmark.start_up import peak_mb as resident_peak_mb
from fairseq_mtssl.corpora.data_folder import usable_cores
from fairseq_mtssl.labels.pipeline import library_versions

BUSY_CORES = 0.15
"""A sample does not count if other processes took more than this share of a core."""
SHORTEST_S = 0.2  # for `others` to be measured, because the kernel counts in steps of 10 ms


class Timing:
    """Measures the time of a block in `seconds`, and in `others` the cores that other processes took.

    device: a GPU is waited for at both ends. watch: False if this process has busy children, which the
    kernel counts late. `others` is None then, without /proc/stat, and for blocks that are too short.
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
        """The entries of a sample."""
        others = None if self.others is None else round(self.others, 3)
        return {"seconds": self.seconds, "others": others, **more}


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Core seconds that all processes, and the hypervisor, have used since the start; None if unknown."""
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
    """The peak memory of this process: resident, and on a GPU what torch allocated."""
    peak = {"peak_mb": resident_peak_mb()}
    device = torch.device(device)
    if device.type == "cuda":
        peak = {"peak_mb": torch.cuda.max_memory_allocated(device) / 1e6, "host_peak_mb": peak["peak_mb"]}
    return peak


FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MALLOC_ARENA_MAX")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def describe(device: str) -> dict[str, Any]:
    """Processor, cores, memory, versions and threads, without the name of the machine."""
    info = cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    found = {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": usable_cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": {"torch": torch.get_num_threads(), "interop": torch.get_num_interop_threads()},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "versions": {**library_versions(), "torch": torch.__version__},
        "device": device,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(torch.device(device))
        found["cuda"] = torch.version.cuda
    return found


def cpu_info(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The entries of /proc/cpuinfo for the first core; empty on other systems."""
    try:
        first = path.read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def memory_bytes() -> int:
    """The memory of the machine; 0 if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def available_bytes(path: Path = Path("/proc/meminfo")) -> int:
    """The memory that new processes can have without swapping; all of it if unknown."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", path.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else memory_bytes()


def gemm(side: int, device: str, repeats: int = 8) -> dict[str, Any]:
    """The highest number of floating-point operations per second in products of two square matrices.

    Returns: {"fp32": operations a second, "bf16": …}.
    """
    found: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        torch.mm(a, b, out=out)
        best = float("inf")
        for _ in range(repeats):
            with Timing(device) as timing:
                torch.mm(a, b, out=out)
            best = min(best, timing.seconds)
        found[name] = 2 * side**3 / best
    return found

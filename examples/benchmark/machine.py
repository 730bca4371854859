"""What the figures were measured on: its description, and the peak of its matrix products."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from examples.benchmark.load import Timing
from fairseq_mtssl.corpora.data_folder import usable_cores
from fairseq_mtssl.labels.pipeline import library_versions

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MALLOC_ARENA_MAX")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def describe(device: str) -> dict[str, Any]:
    """Processor, cores, memory, versions, threads; nothing that names the machine."""
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
    """What Linux says of the first core; nothing elsewhere."""
    try:
        first = path.read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def memory_bytes() -> int:
    """Of the machine; 0 where it is not told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def available_bytes(path: Path = Path("/proc/meminfo")) -> int:
    """What new processes can have of the memory without swapping; all of it where it is not told."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", path.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else memory_bytes()


def gemm(side: int, device: str, repeats: int = 8) -> dict[str, Any]:
    """The most floating-point operations a second that a product of two square matrices reaches.

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

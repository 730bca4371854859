"""Two gloo ranks on the loopback, for tests of what several processes do together.

Usage: python gloo_ranks.py MODULE FOLDER. MODULE, of this folder, has `run_case(rank, case)`; FOLDER/cases.pt
holds the cases by name; rank r writes what `run_case` returns of each, by name, to FOLDER/rank{r}.pt.
"""

from __future__ import annotations

import datetime
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

import fairseq_mtssl

RANKS = 2


def run_cases(module: ModuleType, cases: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Start both ranks once for all cases. Returns: of each rank, name of a case -> its result."""
    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, __file__, module.__name__, str(folder)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


def environment() -> dict[str, str]:
    """Of a rank: one thread, the loopback, this package and the helper modules of the tests."""
    package, tests = Path(fairseq_mtssl.__path__[0]).parent, Path(__file__).parent
    paths = [str(package), str(tests), os.environ.get("PYTHONPATH")]
    return {
        "GLOO_SOCKET_IFNAME": "lo",
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def run_rank(rank: int, module: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=300),
    )
    run_case = importlib.import_module(module).run_case
    cases = torch.load(Path(folder) / "cases.pt")
    torch.save({name: run_case(rank, case) for name, case in cases.items()}, Path(folder) / f"rank{rank}.pt")
    dist.barrier()
    # Taking gloo apart sometimes aborts in torch: "terminate called without an active exception".
    os._exit(0)


if __name__ == "__main__":
    torch.multiprocessing.spawn(run_rank, args=tuple(sys.argv[1:]), nprocs=RANKS)

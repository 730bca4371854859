"""Shared by all tests: the helper modules of this folder can be imported; recipes composed as the command
line does it; programs of this environment run from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))
Compose = Callable[..., DictConfig]
RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def compose() -> Compose:
    """compose(recipe, overrides) -> the configuration `fairseq-hydra-train --config-name recipe` composes."""
    from training import compose_recipe

    return compose_recipe


@pytest.fixture
def run_program() -> RunProgram:
    """run_program(words, cwd) runs a program of this environment, by its name, and captures what it says."""
    return run_here


@pytest.fixture
def traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch.compile without its code generator, and a count of what it makes (see `compiler`).

    Parametrised indirectly: another backend of torch's.
    """
    from compiler import trace

    return trace(monkeypatch, getattr(request, "param", "eager"))


def run_here(
    words: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run to the end; the caller looks at the return code. `python` is this interpreter."""
    folder = Path(sys.executable).parent
    program = sys.executable if words[0] == "python" else str(folder / words[0])
    if words[0] != "python" and not Path(program).exists():
        program = words[0]
    return subprocess.run(
        [program, *words[1:]],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

MANIFESTS = Path(__file__).resolve().parents[3] / "manifests"


@pytest.fixture(scope="session")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of manifests/ by its name, as `python manifests/NAME.py` finds its neighbours."""
    sys.path.insert(0, str(MANIFESTS))
    yield importlib.import_module
    sys.path.remove(str(MANIFESTS))

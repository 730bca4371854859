"""The scripts of manifests/ as modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"


def load(name: str) -> ModuleType:
    """Import a script by its name, as `python manifests/NAME.py` finds its neighbours."""
    sys.path.insert(0, str(MANIFESTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(MANIFESTS))

"""The versions that results depend on: Python, the system and the packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "fairseq-mtssl",
    "fairseq-fixed",
    "fairseq",
    "torch",
    "numpy",
    "hydra-core",
    "omegaconf",
    "espeakng-loader",
)


def versions() -> dict[str, str]:
    """Name -> version of Python, of the system and of the packages that are installed."""
    known = {"python": platform.python_version(), "machine": platform.platform()}
    for name in PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known

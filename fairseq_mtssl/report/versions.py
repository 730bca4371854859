"""What decides numbers: Python, the machine and the packages, as they are now."""

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
    """Version by name, of those that are installed."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

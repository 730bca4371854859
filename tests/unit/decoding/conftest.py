"""Puts `tests/` on the path, so that `oracles` can be imported however pytest was started."""

import sys
from pathlib import Path

TESTS = str(Path(__file__).resolve().parents[2])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

"""Puts `tests/` on the path, so that `oracles` can be imported whichever way pytest was started; what has a
C++ extension is tested with it and without."""

import sys
from pathlib import Path

import pytest

from fairseq_mtssl.kernels import native

TESTS = str(Path(__file__).resolve().parents[2])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)


@pytest.fixture(params=["compiled", "by torch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the C++ extension, and without."""
    if request.param == "by torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("not compiled here")

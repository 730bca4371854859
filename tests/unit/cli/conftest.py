"""Puts `tests/` on the path, so that `fakes` can be imported whichever way pytest was started."""

import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).resolve().parents[2])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that `load_model` turns into the fake model."""
    import fakes

    from fairseq_mtssl import checkpoints

    monkeypatch.setattr(checkpoints, "load_model", fakes.fake_load_model)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"")
    return str(path)

"""The commands are tested with a model that is quick to run and whose answers are known."""

from pathlib import Path

import pytest


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that `load_model` turns into the fake model."""
    import fakes

    from fairseq_mtssl import checkpoints

    monkeypatch.setattr(checkpoints, "load_model", fakes.fake_load_model)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"")
    return str(path)

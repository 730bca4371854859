from __future__ import annotations

import threading

import pytest

from examples.pipeline import Pipeline


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that were run: mtssl in this process, which saves its start; others as programs."""
    execute, executed, lock = Pipeline._execute, [], threading.Lock()

    def watched(self, stage) -> None:
        from fairseq_mtssl.cli.main import main

        with lock:
            executed.append(stage.name)
        if stage.command[0] != "mtssl":
            return execute(self, stage)
        with lock:
            assert main(stage.command[1:]) == 0, stage.line
        return None

    monkeypatch.setattr(Pipeline, "_execute", watched)
    return executed

"""What several modules train from: made once in a session, and changed by no test."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tiny_corpora import make_corpus, make_labels
from training import train, train_mt4ssl

from examples.pipeline import Pipeline


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train: 10 pairs, valid and test: 6 each."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def labels(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random labels of the corpus, of 6 clusters at 50 Hz."""
    return make_labels(tmp_path_factory.mktemp("labels"), corpus)


@pytest.fixture(scope="session")
def joint_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four updates of W2V2, then four of VGS, never stopped; a checkpoint after every update."""
    return train(corpus, tmp_path_factory.mktemp("joint"), checkpoint__no_epoch_checkpoints=False)


@pytest.fixture(scope="session")
def mt4ssl_run(corpus: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight updates of MT4SSL, never stopped; a checkpoint after every update."""
    return train_mt4ssl(corpus, tmp_path_factory.mktemp("mt4ssl"), labels)


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

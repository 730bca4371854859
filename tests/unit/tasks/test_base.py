"""The share of training in which there was no batch to work on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask

from fairseq_mtssl.tasks import base as every_row
from fairseq_mtssl.tasks.base import BaseTask


class Run:
    """A task whose clock advances only by `tick`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(every_row, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(FairseqTask, "train_step", lambda *_, **__: self.tick(self.step_s))
        monkeypatch.setattr(FairseqTask, "reduce_metrics", lambda *_: None)
        self.step_s = 0.0
        self.task = BaseTask(SimpleNamespace())

    def tick(self, seconds: float) -> None:
        self.now += seconds

    def update(self, waits: float, steps: int = 1, step_s: float = 1.0) -> None:
        self.tick(waits)
        self.step_s = step_s
        for _ in range(steps):
            self.task.train_step(None)
        self.task.reduce_metrics([], SimpleNamespace(training=True))

    def validate(self, seconds: float) -> None:
        self.task.begin_valid_epoch(1, None)
        self.tick(seconds)
        self.task.reduce_metrics([], SimpleNamespace(training=False))


def logged(act: Any) -> float | None:
    with metrics.aggregate() as found:
        act()
    return found.get_smoothed_values().get("data_wait")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def test_the_wait_of_an_update_is_logged_as_a_share_of_its_time(run: Run) -> None:
    run.task.begin_epoch(1, None)
    assert logged(lambda: run.update(waits=1.0, step_s=3.0)) == 0.25
    assert logged(lambda: run.update(waits=0.0, step_s=3.0)) == 0.0


def test_over_an_interval_seconds_are_averaged_not_updates(run: Run) -> None:
    run.task.begin_epoch(1, None)

    def interval() -> None:
        run.update(waits=0.0, step_s=9.0)
        run.update(waits=1.0, step_s=0.0)

    assert logged(interval) == 0.1


def test_only_the_first_of_several_batches_an_update_is_waited_for(run: Run) -> None:
    run.task.begin_epoch(1, None)
    assert logged(lambda: run.update(waits=4.0, steps=4, step_s=1.0)) == 0.5


def test_validation_and_the_time_after_it_are_not_counted_as_waiting(run: Run) -> None:
    run.task.begin_epoch(1, None)
    run.update(waits=1.0)
    run.validate(seconds=50.0)
    assert logged(lambda: run.update(waits=7.0)) is None
    assert logged(lambda: run.update(waits=1.0)) == 0.5


def test_the_first_batch_of_an_epoch_is_waited_for(run: Run) -> None:
    run.update(waits=9.0)
    run.validate(seconds=50.0)
    run.task.begin_epoch(2, None)
    assert logged(lambda: run.update(waits=1.0)) == 0.5


def test_a_skipped_update_counts_to_the_next(run: Run) -> None:
    run.task.begin_epoch(1, None)
    run.tick(5.0)
    run.step_s = 1.0
    run.task.train_step(None)  # overflow: nothing is reduced
    assert logged(lambda: run.update(waits=2.0, step_s=2.0)) == 0.5
    assert logged(lambda: run.update(waits=1.0, step_s=3.0)) == 0.25

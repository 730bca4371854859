"""Logs at the end of each training phase whether the model learned, by the rules of report/health.py.

The report pages use the same rules, so that a training's log and its page agree.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.logging import meters, metrics

from fairseq_mtssl.report.health import phase_healths
from fairseq_mtssl.report.training_log import Record, TrainingLog
from fairseq_mtssl.tasks.base import BaseTask

logger = logging.getLogger(__name__)

LINES = 40  # least number of records per phase, if it has as many updates
TRAINER_METRICS = ("gnorm", "clip")  # fairseq logs these just before it calls the task's reduce_metrics


class HealthWatch:
    """Collects the logged values of a phase, and logs its judgement at the phase's end.

    phases: (first update, name) of each phase in order; total: number of updates of the run. A resumed run
    does not know the values from before it was stopped: it judges the present phase by its later updates, and
    does not judge phases that had ended.
    """

    def __init__(self, phases: Sequence[tuple[int, str]], total: int) -> None:
        self.phases = list(phases)
        self.total = total
        self._records: list[Record] = []
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._update = 0
        self._judged = -1  # index of the last phase that was judged

    def reach(self, update: int) -> None:
        """Called before an update, counted from 0: judges the phase that ended before it."""
        self._update = update
        index = self._index(update)
        if index > 0 and index - 1 > self._judged:
            self._judge(index - 1)

    def add(self, values: Mapping[str, Any]) -> None:
        """Add the logged values of the update. values: numbers, or tensors, which are not waited for."""
        for key, value in values.items():
            if value is not None:
                value = value.detach() if torch.is_tensor(value) else value
                self._sums[key] = self._sums.get(key, 0.0) + value
                self._counts[key] = self._counts.get(key, 0) + 1
        index = self._index(self._update)
        start, end, done = self.phases[index][0], self._end(index), self._update + 1
        if (done - start) % max((end - start) // LINES, 1) == 0 or done >= end:
            means = {key: float(total) / self._counts[key] for key, total in self._sums.items()}
            self._records.append(Record("train_inner", done, means))
            self._sums, self._counts = {}, {}

    def validated(self, updates: int, values: Mapping[str, Any]) -> None:
        """Add the values of a validation after `updates` updates."""
        numbers = {key: float(value) for key, value in values.items() if value is not None}
        self._records.append(Record("valid", updates, numbers))

    def finish(self, updates: int) -> None:
        """Judge the last phase, if it has ended after `updates` updates and was not judged yet."""
        if updates >= self.total and self._judged < len(self.phases) - 1:
            self._judge(len(self.phases) - 1)

    def _judge(self, index: int) -> None:
        self._judged = index
        start, end = self.phases[index][0], self._end(index)
        records = tuple(record for record in self._records if start < record.updates <= end)
        self._records = [record for record in self._records if record.updates > end]
        if any(record.kind == "train_inner" for record in records):
            (health,) = phase_healths(TrainingLog(Path(), records), [self.phases[index]])
            number, count = index + 1, len(self.phases)
            logger.info("phase %d of %d, %s: %s", number, count, health.name, health.text)

    def _index(self, update: int) -> int:
        return max(i for i, (start, _) in enumerate(self.phases) if start <= max(update, 0))

    def _end(self, index: int) -> int:
        return self.phases[index + 1][0] if index + 1 < len(self.phases) else self.total


class WatchedTask(BaseTask):
    """A task that judges its phases. Subclasses make `health` when they know the phases, and call `reach`."""

    health: HealthWatch | None = None
    _has_validated = False

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log metrics and, in training, collect them."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.health is not None and criterion.training:
            self.health.add(_logged_now())

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        super().begin_valid_epoch(epoch, model)
        self._has_validated = False

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """Called by fairseq after each subset of a validation; only the first is used, as for checkpoints."""
        if self.health is not None and not self._has_validated:
            self._has_validated = True
            updates = int(stats["num_updates"])
            self.health.validated(updates, stats)
            self.health.finish(updates)

    def post_save(self, path: str, updates: int) -> None:
        """Called by fairseq after each checkpoint; the last one is written even without validation."""
        if self.health is not None:
            self.health.finish(updates)


def _logged_now() -> dict[str, Any]:
    """Return the values logged by the present update, with the trainer's gradient norm and clipping."""
    innermost = metrics.get_active_aggregators()[-1]
    values = {key: meter.val for key, meter in innermost.items() if isinstance(meter, meters.AverageMeter)}
    for key in TRAINER_METRICS:
        meter = metrics.get_meter("default", key)
        if meter is not None:
            values[key] = meter.val
    return values

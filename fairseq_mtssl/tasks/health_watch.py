"""Training says at the end of each phase whether it learned, by the rules of the report (report/health.py).

The rules stay in one room, so that the log of a training and the page that is made of it never disagree.
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

LINES = 40  # records a phase, at least, where it has as many updates
OF_THE_TRAINER = ("gnorm", "clip")  # logged by fairseq just before the task is asked for its metrics


class HealthWatch:
    """Collects what is logged during a phase, as the log would have it, and judges it at the phase's end.

    phases: (first update, name) of each, in order; total: updates of the run. What a resumed run did before
    it was stopped is not known here: its phase is judged by what came after, and nothing is said of phases
    that had ended.
    """

    def __init__(self, phases: Sequence[tuple[int, str]], total: int) -> None:
        self.phases = list(phases)
        self.total = total
        self._records: list[Record] = []
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._update = 0
        self._judged = -1  # the last phase of which something was said

    def reach(self, update: int) -> None:
        """An update, counted from 0, is about to be made: say how a phase went that ended before it."""
        self._update = update
        index = self._index(update)
        if index > 0 and index - 1 > self._judged:
            self._say(index - 1)

    def add(self, values: Mapping[str, Any]) -> None:
        """Take in what the update gave. values: numbers, or tensors, which are not waited for."""
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
        """Take in a validation after so many updates."""
        numbers = {key: float(value) for key, value in values.items() if value is not None}
        self._records.append(Record("valid", updates, numbers))

    def finish(self, updates: int) -> None:
        """Say how the last phase went, if it has ended after so many updates and nothing was said yet."""
        if updates >= self.total and self._judged < len(self.phases) - 1:
            self._say(len(self.phases) - 1)

    def _say(self, index: int) -> None:
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
    """A task that says how its phases went. It makes `health` when it knows them, and calls `reach`."""

    health: HealthWatch | None = None
    _has_validated = False

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """As below it; in training what it logs is collected."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.health is not None and criterion.training:
            self.health.add(_logged_now())

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        super().begin_valid_epoch(epoch, model)
        self._has_validated = False

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """Called by fairseq after each subset of a validation; the first counts, as for the checkpoint."""
        if self.health is not None and not self._has_validated:
            self._has_validated = True
            updates = int(stats["num_updates"])
            self.health.validated(updates, stats)
            self.health.finish(updates)

    def post_save(self, path: str, updates: int) -> None:
        """Called by fairseq after a checkpoint, the last one too where nothing is validated."""
        if self.health is not None:
            self.health.finish(updates)


def _logged_now() -> dict[str, Any]:
    """What the present update logged: the criterion's, and the trainer's gradient norm and clipping."""
    innermost = metrics.get_active_aggregators()[-1]
    found = {key: meter.val for key, meter in innermost.items() if isinstance(meter, meters.AverageMeter)}
    for key in OF_THE_TRAINER:
        meter = metrics.get_meter("default", key)
        if meter is not None:
            found[key] = meter.val
    return found

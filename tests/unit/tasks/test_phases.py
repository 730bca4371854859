"""The optimizer's state is reset with its phase, through epochs of unequal length and after resuming."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_mtssl.schedule import Schedule, parse_phases
from fairseq_mtssl.tasks.phases import begin_update, keep_schedule

PHASES = parse_phases(
    [
        {"name": "first", "alpha": 0, "length": "3 epochs"},
        {"name": "second", "alpha": 1, "length": "4 epochs"},
        {"name": "third", "alpha": 0.5, "length": "rest", "reset": ["lr"]},
    ]
)


def new_optimizer() -> Any:
    """The parts of a fairseq optimizer that phases need, around a torch optimizer."""
    inner = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    return SimpleNamespace(optimizer=inner, set_lr=lambda rate: None)


def update(optimizer: Any, schedule: Schedule, number: int) -> bool:
    """Make one update. Returns: whether the state was cleared before it."""
    parameter = optimizer.optimizer.param_groups[0]["params"][0]
    had = bool(optimizer.optimizer.state)
    begin_update(optimizer, schedule, schedule.at(number), 1.0)
    forgotten = had and not optimizer.optimizer.state
    parameter.grad = torch.ones(2)
    optimizer.optimizer.step()
    return forgotten


def resumed(optimizer: Any) -> Any:
    """Restore what fairseq restores from a checkpoint."""
    other = new_optimizer()
    other.optimizer.load_state_dict(copy.deepcopy(optimizer.optimizer.state_dict()))
    return other


@pytest.mark.parametrize("seed", range(20))
def test_every_phase_resets_once_with_any_epochs_and_resumes(seed: int) -> None:
    """Epochs of 61 or 62 batches, resumed at random, sometimes with half as many updates per epoch."""
    rng = np.random.default_rng(seed)
    optimizer, number, resets = new_optimizer(), 0, []
    schedule = None
    while number < 600:
        if schedule is None or rng.random() < 0.3:
            if schedule is not None:
                optimizer = resumed(optimizer)
            batches = int(rng.integers(61, 63)) // int(rng.integers(1, 3))
            schedule = keep_schedule(optimizer, Schedule.resolve(PHASES, 10 * batches, batches), "as written")
        for _ in range(int(rng.integers(20, 80))):
            if update(optimizer, schedule, number):
                resets.append(number)
            number += 1
    assert resets == [schedule.starts[1]]


def test_an_update_that_is_repeated_resets_once() -> None:
    optimizer, schedule = new_optimizer(), Schedule.resolve(PHASES, 100, 10)
    assert [update(optimizer, schedule, number) for number in (29, 30, 30, 31)] == [False, True, False, False]


def test_a_phase_whose_first_update_was_missed_resets_later() -> None:
    optimizer, schedule = new_optimizer(), Schedule.resolve(PHASES, 100, 10)
    assert [update(optimizer, schedule, number) for number in (29, 33)] == [False, True]


def test_a_phase_that_keeps_the_state_does_not_reset_it() -> None:
    optimizer, schedule = new_optimizer(), Schedule.resolve(PHASES, 100, 10)
    assert [update(optimizer, schedule, number) for number in (69, 70)] == [False, False]


@pytest.mark.parametrize(("number", "wanted"), [(30, True), (31, False), (70, False)])
def test_a_checkpoint_without_phase_belongs_to_the_phase_of_its_last_update(
    number: int, wanted: bool
) -> None:
    optimizer, schedule = new_optimizer(), Schedule.resolve(PHASES, 100, 10)
    update(optimizer, schedule, number - 1)
    del optimizer.optimizer.param_groups[0]["phase"]
    assert update(resumed(optimizer), schedule, number) == wanted


def test_the_first_resolved_schedule_stays_and_another_epoch_length_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    optimizer = new_optimizer()
    begun = keep_schedule(optimizer, Schedule.resolve(PHASES, 100, 10), "as written")
    with caplog.at_level(logging.WARNING):
        kept = keep_schedule(resumed(optimizer), Schedule.resolve(PHASES, 50, 5), "as written")
    assert kept == begun
    assert "5 updates, and had 10" in caplog.text and "[0, 30, 70] of 100" in caplog.text


def test_a_changed_schedule_is_resolved_anew() -> None:
    optimizer = new_optimizer()
    keep_schedule(optimizer, Schedule.resolve(PHASES, 100, 10), "as written")
    other = Schedule.resolve(PHASES, 50, 5)
    assert keep_schedule(optimizer, other, "written anew") == other

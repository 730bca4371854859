"""When and how a training logs the judgement of a phase: phases, validations, resumed runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairseq_mtssl.tasks.health_watch import HealthWatch

PHASES = [(0, "w2v2"), (100, "vgs")]
SSL = {"alpha": 0.0, "contrastive": 1.0, "contrastive_chance": 3.9, "ssl_chance": 0.02}
VGS = {"alpha": 1.0, "loss_vgs": 6.8, "loss_vgs_chance": 6.93}
RECALLS = {"s2i_r10": 50.0, "i2s_r10": 50.0, "s2i_chance10": 5.0, "i2s_chance10": 5.0, "captions": 400}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level("INFO", logger="fairseq_mtssl.tasks.health_watch")
    return lambda: [record.getMessage() for record in caplog.records]


def make_updates(watch: HealthWatch, updates: range, accuracy: float = 0.7) -> None:
    for update in updates:
        watch.reach(update)
        # tensors, as on a GPU, and numbers
        given = {**SSL, "ssl_accuracy": torch.tensor(accuracy)} if update < 100 else VGS
        watch.add({**given, "left_min": None})


def test_a_phase_is_judged_when_the_next_begins_and_the_last_after_its_validation(said) -> None:
    watch = HealthWatch(PHASES, 200)
    make_updates(watch, range(100))
    assert said() == []
    watch.reach(100)
    (first,) = said()
    assert first.startswith("phase 1 of 2, w2v2: learned. Contrastive accuracy 0.7 (chance 0.02)")
    make_updates(watch, range(100, 200))
    assert len(said()) == 1
    watch.validated(200, RECALLS)
    watch.finish(200)
    watch.finish(200)  # called again after the checkpoint
    _, second = said()
    assert second.startswith("phase 2 of 2, vgs: learned. R@10 50 % (chance 5 %), L_AV 6.8 (knowing nothing")


def test_without_a_validation_the_last_phase_is_judged_by_its_loss(said) -> None:
    watch = HealthWatch(PHASES, 200)
    make_updates(watch, range(100, 200))
    watch.finish(199)
    assert said() == []
    watch.finish(200)
    (last,) = said()
    assert last.startswith("phase 2 of 2, vgs: ended at chance. L_AV 6.8")


def test_only_the_last_quarter_counts_for_any_length_of_the_phase(said) -> None:
    watch = HealthWatch([(0, "w2v2")], 1000)
    for update in range(1000):
        watch.reach(update)
        watch.add({**SSL, "ssl_accuracy": 0.5 if update >= 750 else 0.0})
    watch.finish(1000)
    assert "Contrastive accuracy 0.5 (chance" in said()[0]


def test_a_resumed_run_judges_its_phase_by_its_own_updates_and_no_earlier_phase(said) -> None:
    watch = HealthWatch(PHASES, 200)
    make_updates(watch, range(90, 101))
    assert [text[:24] for text in said()] == ["phase 1 of 2, w2v2: lear"]
    later = HealthWatch(PHASES, 200)
    make_updates(later, range(150, 200))
    assert len(said()) == 1
    boundary = HealthWatch(PHASES, 200)  # stopped just before the second phase began
    boundary.reach(100)
    assert len(said()) == 1


def test_a_repeated_update_logs_no_judgement_twice(said) -> None:
    watch = HealthWatch(PHASES, 200)
    make_updates(watch, range(100))
    watch.reach(100)
    watch.reach(100)
    assert len(said()) == 1

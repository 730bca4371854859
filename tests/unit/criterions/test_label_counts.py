"""Baselines of label prediction, counted over all batches, against hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from fairseq_mtssl.criterions.label_counts import LabelCounts
from fairseq_mtssl.ssl.masked_frames import classify


def counts(*frames: int) -> torch.Tensor:
    """Return the number of frames of each label in one batch."""
    return torch.tensor(frames, dtype=torch.float32)


def totals(labels: LabelCounts, batches: list[torch.Tensor], index: int = 0) -> dict[str, float]:
    """Add batches and return the sums of the measures, after checking that they share one count."""
    found = labels.add(batches, index)
    assert {float(measure.count) for measure in found.values()} == {float(sum(b.sum() for b in batches))}
    return {name: float(measure.total) for name, measure in found.items()}


def test_the_most_frequent_label_is_that_of_all_batches_so_far() -> None:
    labels = LabelCounts()
    assert totals(labels, [counts(3, 1, 0, 0)]) == pytest.approx(
        {
            "chance_off": 100 * 4 / 4,
            "frequent_off": 100 * 4 * 3 / 4,
            "loss_off_entropy": 4 * (0.75 * math.log(4 / 3) + 0.25 * math.log(4)),
            "loss_off_chance": 4 * math.log(4),
        }
    )
    # five of ten frames have the second label, and this batch has six frames
    assert totals(labels, [counts(0, 4, 1, 1)])["frequent_off"] == pytest.approx(100 * 6 * 5 / 10)


def test_batches_of_an_update_are_counted_together_and_label_sets_apart() -> None:
    labels = LabelCounts()
    first, second = [counts(2, 0), counts(2, 4)], [counts(1, 1, 1), counts(6, 0, 0)]
    assert totals(labels, first, 0)["frequent_off"] == pytest.approx(100 * 8 * 4 / 8)
    assert totals(labels, second, 1)["frequent_off"] == pytest.approx(100 * 9 * 7 / 9)


def test_a_batch_without_a_label_is_no_division_by_zero() -> None:
    assert set(totals(LabelCounts(), [counts(0, 0)]).values()) == {0.0}


def test_special_symbols_are_not_counted_as_labels() -> None:
    truth = torch.tensor([4, 4, 6, 1, 1])  # 1: padding
    _, _, labelled, found = classify(torch.zeros(5, 7), truth)
    assert found.tolist() == [2.0, 0.0, 1.0] and labelled == 3

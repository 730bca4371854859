"""What is known of labels without learning: counted over all batches, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fairseq_mtssl.criterions.label_counts import LabelCounts
from fairseq_mtssl.models.masked_prediction import classify


def output(*counts: list[int]) -> dict[str, Any]:
    """Of each label set the frames of each label."""
    tensors = [torch.tensor(each, dtype=torch.float32) for each in counts]
    return {"label_counts": tensors, "labelled": [each.sum().long() for each in tensors]}


def test_the_most_frequent_label_is_that_of_all_batches_so_far() -> None:
    labels = LabelCounts()
    first = labels.add([output([3, 1, 0, 0])], 0)
    assert {name: value.item() for name, value in first.items()} == pytest.approx(
        {
            "chance": 4 / 4,
            "frequent": 4 * 3 / 4,
            "entropy": 4 * (0.75 * math.log(4 / 3) + 0.25 * math.log(4)),
            "entropy_at_most": 4 * math.log(4),
        }
    )
    # of ten frames five have the second label, and this batch has six
    second = labels.add([output([0, 4, 1, 1])], 0)
    assert second["frequent"].item() == pytest.approx(6 * 5 / 10)


def test_outputs_of_a_step_are_counted_together_and_label_sets_apart() -> None:
    labels = LabelCounts()
    outputs = [output([2, 0], [1, 1, 1]), output([2, 4], [6, 0, 0])]
    assert labels.add(outputs, 0)["frequent"].item() == pytest.approx(8 * 4 / 8)
    assert labels.add(outputs, 1)["frequent"].item() == pytest.approx(9 * 7 / 9)


def test_a_batch_without_a_label_is_no_division_by_zero() -> None:
    assert all(float(value) == 0.0 for value in LabelCounts().add([output([0, 0])], 0).values())


def test_special_symbols_are_no_labels() -> None:
    truth = torch.tensor([4, 4, 6, 1, 1])  # 1: padding
    _, _, labelled, counts = classify(torch.zeros(5, 7), truth)
    assert counts.tolist() == [2.0, 0.0, 1.0] and labelled == 3

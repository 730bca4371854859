from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fairseq_mtssl.evaluation.phone_scores import PhoneCounts, phone_edits


def test_accuracy_and_macro_f1_by_hand() -> None:
    # phone 0: 2 correct, 3 labelled, 3 predicted; phone 1: 1 correct, 2 labelled, 2 predicted; no phone 2
    counts = PhoneCounts.of(np.array([0, 0, 1, 0, 1]), np.array([0, 0, 0, 1, 1]), 3)
    assert counts.accuracy() == pytest.approx(60)
    assert counts.macro_f1() == pytest.approx(100 * (4 / 6 + 2 / 4) / 2)
    assert str(counts) == "5 frames"


@pytest.mark.parametrize("seed", range(20))
def test_counts_of_batches_add_up_to_what_sklearn_finds_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(6, size=(2, 50)) * rng.integers(0, 2, size=(2, 50))
    parts = [PhoneCounts.of(predicted[part], labels[part], 9) for part in np.array_split(np.arange(50), 7)]
    counts = sum(parts[1:], parts[0])
    assert counts.accuracy() == pytest.approx(100 * accuracy_score(labels, predicted))
    assert counts.macro_f1() == pytest.approx(100 * f1_score(labels, predicted, average="macro"))
    np.testing.assert_array_equal(counts.table(), PhoneCounts.of(predicted, labels, 9).table())


def test_no_frames_have_no_score() -> None:
    nothing = PhoneCounts.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 4)
    assert math.isnan(nothing.accuracy()) and math.isnan(nothing.macro_f1())


def test_phone_edits_are_those_counted_by_hand() -> None:
    references = [[1, 2, 3], [4], [5, 5]]
    # one substitution and one insertion; one deletion; none
    assert phone_edits(references, [[1, 9, 3, 3], [], [5, 5]]) == (3, 6)
    assert phone_edits([], []) == (0, 0)

"""Scores of phone classification and recognition: accuracy and macro-F1 of frames, phone error rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PhoneCounts:
    """Counts of frames per phone, from which accuracy and F1 follow; the counts of batches are added.

    correct, predicted, labelled: (P,) int64.
    """

    correct: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, labels: np.ndarray, phones: int) -> PhoneCounts:
        """Count the frames. predicted, labels: (N,) int in 0 … phones − 1, of the same frames."""
        correct = labels[predicted == labels]
        return cls(*(np.bincount(counted, minlength=phones) for counted in (correct, predicted, labels)))

    def __add__(self, other: PhoneCounts) -> PhoneCounts:
        return PhoneCounts(
            self.correct + other.correct, self.predicted + other.predicted, self.labelled + other.labelled
        )

    def table(self) -> np.ndarray:
        """Return (3, P) int64 with the rows correct, predicted, labelled."""
        return np.stack([self.correct, self.predicted, self.labelled])

    def __str__(self) -> str:
        """Return the text that a progress bar shows for a batch."""
        return f"{self.frames} frames"

    @property
    def frames(self) -> int:
        return int(self.labelled.sum())

    def accuracy(self) -> float:
        """Return the percentage of correct frames; NaN without frames."""
        return 100.0 * float(self.correct.sum()) / self.frames if self.frames else float("nan")

    def macro_f1(self) -> float:
        """Return the mean of the phones' F1 = 2 · correct / (predicted + labelled), in percent.

        The mean is over the phones that are labelled or predicted at all, as in `sklearn.metrics.f1_score`;
        NaN without any.
        """
        either = self.predicted + self.labelled
        occurs = either > 0
        if not occurs.any():
            return float("nan")
        return 100.0 * float((2 * self.correct[occurs] / either[occurs]).mean())


def phone_edits(references: Sequence[Sequence[int]], hypotheses: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the edits (insertions, deletions, substitutions) between hypotheses and references, and the
    number of phones of the references. The phone error rate of a set is their ratio.
    """
    import editdistance

    pairs = zip(references, hypotheses, strict=True)
    edits = sum(editdistance.eval(list(hypothesis), list(reference)) for reference, hypothesis in pairs)
    return edits, sum(len(reference) for reference in references)

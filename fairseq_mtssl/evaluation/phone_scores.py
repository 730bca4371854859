"""How well phones were told: accuracy and macro-F1 of frames, the phone error rate of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PhoneCounts:
    """Frames of each phone, all that accuracy and F1 need; those of batches are added up.

    correct, predicted, labelled: (P,) int64.
    """

    correct: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, labels: np.ndarray, phones: int) -> PhoneCounts:
        """predicted, labels: (N,) int in 0 … phones − 1, of the same frames."""
        right = labels[predicted == labels]
        return cls(*(np.bincount(each, minlength=phones) for each in (right, predicted, labels)))

    def __add__(self, other: PhoneCounts) -> PhoneCounts:
        return PhoneCounts(
            self.correct + other.correct, self.predicted + other.predicted, self.labelled + other.labelled
        )

    def table(self) -> np.ndarray:
        """(3, P) int64: the three, one above the other."""
        return np.stack([self.correct, self.predicted, self.labelled])

    def __str__(self) -> str:
        """What a progress bar shows of a batch."""
        return f"{self.frames} frames"

    @property
    def frames(self) -> int:
        return int(self.labelled.sum())

    def accuracy(self) -> float:
        """Percent of the frames; NaN of none."""
        return 100.0 * float(self.correct.sum()) / self.frames if self.frames else float("nan")

    def macro_f1(self) -> float:
        """Percent: the mean of the phones' F1 = 2 · correct / (predicted + labelled), NaN without any.

        Over the phones that are labelled or predicted at all, as `sklearn.metrics.f1_score` has it.
        """
        either = self.predicted + self.labelled
        some = either > 0
        return 100.0 * float((2 * self.correct[some] / either[some]).mean()) if some.any() else float("nan")


def phone_edits(references: Sequence[Sequence[int]], hypotheses: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Insertions, deletions and substitutions that turn the hypotheses into the references, and the phones
    of the references; the error rate of a set is the one sum over the other.
    """
    import editdistance

    pairs = zip(references, hypotheses, strict=True)
    edits = sum(editdistance.eval(list(hypothesis), list(reference)) for reference, hypothesis in pairs)
    return edits, sum(len(reference) for reference in references)

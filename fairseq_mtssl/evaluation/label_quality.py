"""Agreement of cluster labels with phones: phone purity, cluster purity and PNMI.

Source: Hsu et al. 2021, arXiv 2106.07447, section IV-C.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fairseq_mtssl.errors import TargetError


class PhoneSegments(Protocol):
    """The phones of one utterance."""

    def at(self, times_s: np.ndarray) -> list[str | None]:
        """Return the phone at each time, None where there is none."""
        ...


@dataclass(frozen=True)
class Quality:
    """Agreement of labels z and phones y over `frames` frames.

    phone_purity: Σ_z max_y p(y, z); cluster_purity: Σ_y max_z p(y, z); pnmi: I(y; z) / H(y), 1 if there is
    only one phone. phones, clusters: how many of each occur.
    """

    frames: int
    phones: int
    clusters: int
    phone_purity: float
    cluster_purity: float
    pnmi: float


@dataclass
class Contingency:
    """Counts how often each phone and each label occur on the same frame.

    uncovered: number of frames outside every phone; unaligned: number of utterances without phones. Neither
    enters the counts.
    """

    clusters: int
    uncovered: int = 0
    unaligned: int = 0

    def __post_init__(self) -> None:
        self._rows: dict[str, np.ndarray] = {}

    def add(self, labels: np.ndarray, segments: PhoneSegments | None, rate_hz: float) -> None:
        """Count the labels (T,) of one utterance; the phone of frame i is that at (i + 0.5) / rate_hz s."""
        if segments is None:
            self.unaligned += 1
            return
        phones = segments.at((np.arange(len(labels)) + 0.5) / rate_hz)
        for label, phone in zip(labels.tolist(), phones, strict=True):
            if phone is None:
                self.uncovered += 1
                continue
            if phone not in self._rows:
                self._rows[phone] = np.zeros(self.clusters, dtype=np.int64)
            self._rows[phone][label] += 1

    def table(self) -> np.ndarray:
        """Return the counts, (phones, clusters), phones in order of first appearance."""
        return np.array(list(self._rows.values()), dtype=np.int64).reshape(-1, self.clusters)


def quality_of(table: np.ndarray) -> Quality:
    """Return the quality from counts (Y, K) of phones and labels. Raises: TargetError if all are 0."""
    total = int(table.sum())
    if total == 0:
        hint = "Check that the ids of phones.tsv are the caption ids, or file stems, of the manifest."
        raise TargetError("phones", [f"no frame has both a label and a phone. {hint}"])
    joint = table / total
    phone, cluster = joint.sum(1), joint.sum(0)
    entropy = -sum(p * math.log(p) for p in phone.tolist() if p > 0)
    occurs = joint > 0
    information = float((joint[occurs] * np.log(joint[occurs] / np.outer(phone, cluster)[occurs])).sum())
    return Quality(
        frames=total,
        phones=int((phone > 0).sum()),
        clusters=int((cluster > 0).sum()),
        phone_purity=float(joint.max(0).sum()),
        cluster_purity=float(joint.max(1).sum()),
        pnmi=information / entropy if entropy > 0 else 1.0,
    )


def measure(
    labels: Iterable[np.ndarray],
    utterances: Sequence[str],
    phones: Mapping[str, PhoneSegments],
    *,
    rate_hz: float,
    clusters: int,
) -> tuple[Quality, Contingency]:
    """Measure the quality of a split's labels.

    labels: per utterance (T,), all below clusters; utterances: their ids, which are the keys of phones.
    """
    counts = Contingency(clusters)
    for frame_labels, utterance in zip(labels, utterances, strict=True):
        counts.add(frame_labels, phones.get(utterance), rate_hz)
    return quality_of(counts.table()), counts

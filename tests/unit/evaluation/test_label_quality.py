"""Purity and PNMI against hand arithmetic and sklearn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import homogeneity_score

from fairseq_mtssl.data.phones import Segments, read_phone_segments
from fairseq_mtssl.errors import ManifestError, TargetError
from fairseq_mtssl.evaluation.label_quality import Contingency, measure, quality_of


def test_purities_and_pnmi_are_those_worked_out_by_hand() -> None:
    """Phone a: 3 of label 0, 1 of label 1; phone b: 4 of label 1; label 2 never."""
    quality = quality_of(np.array([[3, 1, 0], [0, 4, 0]]))
    assert (quality.frames, quality.phones, quality.clusters) == (8, 2, 2)
    assert quality.phone_purity == pytest.approx(
        7 / 8
    )  # the most frequent phone of label 0 is a (3), of label 1 it is b (4)
    assert quality.cluster_purity == pytest.approx(
        7 / 8
    )  # the most frequent label of phone a is 0 (3), of phone b it is 1 (4)
    information = 3 / 8 * math.log(2) + 1 / 8 * math.log(0.4) + 1 / 2 * math.log(1.6)
    assert quality.pnmi == pytest.approx(information / math.log(2))


@pytest.mark.parametrize("seed", range(5))
def test_pnmi_is_sklearns_homogeneity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phones = rng.integers(7, size=500)
    labels = np.where(rng.random(500) < 0.5, phones, rng.integers(12, size=500))
    table = np.zeros((7, 12), dtype=np.int64)
    np.add.at(table, (phones, labels), 1)
    assert quality_of(table).pnmi == pytest.approx(homogeneity_score(phones, labels), abs=1e-12)


def test_pnmi_is_one_for_labels_that_are_phones_and_zero_for_independent_ones() -> None:
    assert quality_of(np.diag([1, 2, 3])).pnmi == pytest.approx(1)
    assert quality_of(np.ones((3, 4))).pnmi == pytest.approx(0, abs=1e-12)
    assert quality_of(np.array([[2, 3]])).pnmi == homogeneity_score([0] * 5, [0, 0, 1, 1, 1]) == 1
    with pytest.raises(TargetError, match="no frame has both a label and a phone"):
        quality_of(np.zeros((2, 2)))


def test_the_phone_of_a_frame_is_the_one_at_its_centre() -> None:
    """At 50 Hz the centres are 10, 30, 50, 70, 90 ms; b begins at 30 ms and ends at 70, before its centre."""
    segments = Segments(np.array([0.0, 0.03]), np.array([0.03, 0.07]), ["a", "b"])
    assert segments.at((np.arange(5) + 0.5) / 50) == ["a", "b", "b", None, None]
    counted = Contingency(2)
    counted.add(np.array([0, 1, 1, 0, 0]), segments, 50)
    assert counted.table().tolist() == [[1, 0], [0, 2]] and counted.uncovered == 2


def test_frames_and_utterances_without_phones_are_skipped_and_counted() -> None:
    phones = {"u1": Segments(np.array([0.0]), np.array([1.0]), ["a"])}
    labels = [np.array([0, 1]), np.array([1, 1])]
    quality, counted = measure(labels, ["u0", "u1"], phones, rate_hz=50, clusters=2)
    assert quality.frames == 2 and counted.unaligned == 1


def test_phones_are_read_by_position_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("utt\tstart\tend\tphone\tword\nu\t0.5\t0.7\tB\tbe\nu\t0\t0.5\tSIL\t\nv\t0\t1\tA\n")
    phones = read_phone_segments(path)
    assert phones["u"].phones == ["SIL", "B"] and phones["u"].ends_s.tolist() == [0.5, 0.7]
    assert phones["v"].at(np.array([0.2])) == ["A"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "holds no phones"),
        ("u\t0\t1\n", "line 2: got"),
        ("u\tx\t1\ta\n", "line 2: got"),
        ("u\t1\t0.5\ta\n", "line 2: from 1.0 s to 0.5 s"),
        ("u\t0\tnan\ta\n", "line 2: from 0.0 s to nan s"),
        ("u\t0\t1\ta\nu\t0.5\t2\tb\n", "line 3: u overlaps line 2"),
    ],
)
def test_broken_phones_are_refused_with_the_line(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_text(f"utt\tstart\tend\tphone\tword\n{rows}")
    with pytest.raises(ManifestError, match=message):
        read_phone_segments(path)

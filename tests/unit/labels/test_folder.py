"""Labels of frames, and labels held to the utterances they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.frames import frame_count
from fairseq_mtssl.labels import shards
from fairseq_mtssl.labels.folder import Quantizer, read_labels, read_targets

SIZES = [16_000, 8_000, 399, 12_345]


def brute_force(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    distances = ((features.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]) ** 2).sum(-1)
    return distances.argmin(1)


@pytest.mark.parametrize("dim", [1, 39, 256])
def test_labels_are_the_nearest_centroids(dim: int) -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((3000, dim)) * 3 + 50).astype(np.float32)
    centroids = (rng.standard_normal((37, dim)) * 3 + 50).astype(np.float32)
    np.testing.assert_array_equal(Quantizer(centroids)(features), brute_force(features, centroids))


def test_labels_are_the_same_whatever_the_batch() -> None:
    rng = np.random.default_rng(1)
    centroids = rng.standard_normal((64, 24)).astype(np.float32)
    # frames next to the border between two centroids, where rounding would decide
    pairs = rng.integers(64, size=(4000, 2))
    middle = (centroids[pairs[:, 0]] + centroids[pairs[:, 1]]) / 2
    features = (middle + 1e-7 * rng.standard_normal(middle.shape)).astype(np.float32)
    assign = Quantizer(centroids)
    whole = assign(features)
    for size in (1, 3, 1000):
        parts = [assign(features[start : start + size]) for start in range(0, len(features), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_ties_go_to_the_lowest_number() -> None:
    centroids = np.array([[1.0], [-1.0], [1.0]], dtype=np.float32)
    assert Quantizer(centroids)(np.array([[1.0], [0.0], [-1.0]], dtype=np.float32)).tolist() == [0, 0, 1]


def test_one_centroid_and_no_frames() -> None:
    assert Quantizer(np.zeros((1, 2), dtype=np.float32))(np.ones((3, 2))).tolist() == [0, 0, 0]
    assert Quantizer(np.zeros((4, 2), dtype=np.float32))(np.zeros((0, 2))).shape == (0,)


def test_features_that_do_not_fit_are_refused() -> None:
    assign = Quantizer(np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(TargetError, match=r"\(5, 3\), wanted \(T, 2\)"):
        assign(np.zeros((5, 3)))
    with pytest.raises(TargetError, match="frame 1 holds NaN"):
        assign(np.array([[0.0, 0.0], [np.nan, 0.0]]))


def write_km(path: Path, rate_hz: int, sizes: list[int] = SIZES, off: int = 0) -> Path:
    counts = [max(0, frame_count(size, 16_000 // rate_hz, 400) + off) for size in sizes]
    shards.write_labels(path, (np.arange(count) % 5 for count in counts))
    return path


def test_labels_come_back_per_utterance(tmp_path: Path) -> None:
    labels = read_labels(write_km(tmp_path / "train.km", 50), SIZES, clusters=5, rate_hz=50)
    assert [len(labels[i]) for i in range(len(labels))] == [49, 24, 0, 38]
    assert labels[1][:7].tolist() == [0, 1, 2, 3, 4, 0, 1] and labels.rate_hz == 50


@pytest.mark.parametrize("off", [-1, 1])
def test_one_label_more_or_less_is_taken(tmp_path: Path, off: int) -> None:
    labels = read_labels(write_km(tmp_path / "t.km", 50, SIZES[:1], off), SIZES[:1], clusters=5, rate_hz=50)
    assert len(labels[0]) == 49 + off


def test_two_labels_off_name_file_line_numbers_and_cure(tmp_path: Path) -> None:
    path = write_km(tmp_path / "train.km", 50)
    lines = path.read_text().split("\n")
    lines[3] = " ".join(lines[3].split()[:-7])
    path.write_text("\n".join(lines))
    message = (
        r"train.km line 4: 31 labels for 38 frames \(12345 samples at 50 Hz\); they may differ by 1. "
        "Dump features again from this manifest, then label again."
    )
    with pytest.raises(TargetError, match=message):
        read_labels(path, SIZES, clusters=5, rate_hz=50)


def test_labels_at_another_rate_than_said_are_refused(tmp_path: Path) -> None:
    path = write_km(tmp_path / "train.km", 100)
    with pytest.raises(TargetError, match=r"line 1: 98 labels for 49 frames \(16000 samples at 50 Hz\)"):
        read_labels(path, SIZES, clusters=5, rate_hz=50)


def test_100_hz_labels_for_a_50_hz_student_only_when_told_how(tmp_path: Path) -> None:
    path = write_km(tmp_path / "train.km", 100)
    with pytest.raises(TargetError, match=r"labels at 100 Hz for a model at 50 Hz. Ask for one label in 2"):
        read_labels(path, SIZES, clusters=5, rate_hz=100, wanted_rate_hz=50)
    labels = read_labels(path, SIZES, clusters=5, rate_hz=100, wanted_rate_hz=50, subsample=True)
    # frame i of a student starts where frame 2i of the labels does, and there is one for each
    assert [len(labels[i]) for i in range(4)] == [frame_count(size, 320, 400) for size in SIZES]
    assert labels[0][:4].tolist() == [0, 2, 4, 1] and labels.rate_hz == 50


@pytest.mark.parametrize("wanted", [100, 33.0])
def test_rates_that_do_not_divide_are_refused(tmp_path: Path, wanted: float) -> None:
    path = write_km(tmp_path / "train.km", 50)
    with pytest.raises(TargetError, match=f"labels at 50 Hz for a model at {wanted:g} Hz. Make targets"):
        read_labels(path, SIZES, clusters=5, rate_hz=50, wanted_rate_hz=wanted, subsample=True)


def test_unknown_labels_and_words_are_refused_with_the_line(tmp_path: Path) -> None:
    path = write_km(tmp_path / "train.km", 50)
    with pytest.raises(TargetError, match="train.km line 1: unknown labels 3, 4; the dictionary has 0 to 2"):
        read_labels(path, SIZES, clusters=3, rate_hz=50)
    path.write_text(path.read_text().replace("4 0", "x 0", 1))
    with pytest.raises(TargetError, match="train.km line 1: unknown labels x;"):
        read_labels(path, SIZES, clusters=5, rate_hz=50)


@pytest.mark.parametrize(("cut", "message"), [(1, "line 4: cut off"), (100, "3 lines for 4 rows")])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int, message: str) -> None:
    path = write_km(tmp_path / "train.km", 50)
    text = path.read_bytes()
    path.write_bytes(text[:-cut] if cut == 1 else b"".join(text.splitlines(keepends=True)[:3]))
    with pytest.raises(TargetError, match=message):
        read_labels(path, SIZES, clusters=5, rate_hz=50)


def test_an_absent_file_and_an_impossible_rate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such file"):
        read_labels(tmp_path / "train.km", SIZES, clusters=5, rate_hz=50)
    with pytest.raises(TargetError, match="rate_hz 49, wanted 16000 divided"):
        read_labels(tmp_path / "train.km", SIZES, clusters=5, rate_hz=49)


def write_folder(folder: Path, clusters: int) -> Path:
    write_km(folder / "train.km", 50)
    shards.write_dictionary(folder, clusters)
    about = {"rate_hz": 50.0, "window_samples": 400, "clusters": 5}
    (folder / "targets.json").write_text(json.dumps(about))
    return folder


def test_a_folder_of_targets_reads_its_own_rate(tmp_path: Path) -> None:
    targets = read_targets(write_folder(tmp_path, 5))
    assert len(targets.labels("train", SIZES, wanted_rate_hz=50.0)) == 4
    with pytest.raises(TargetError, match="labels at 50 Hz for a model at 25 Hz"):
        targets.labels("train", SIZES, wanted_rate_hz=25.0)


def test_a_folder_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="dict.km.txt has 6 labels, targets.json says 5"):
        read_targets(write_folder(tmp_path, 6))
    (tmp_path / "targets.json").write_text("{}")
    with pytest.raises(TargetError, match="cannot be used"):
        read_targets(tmp_path)
    (tmp_path / "targets.json").unlink()
    with pytest.raises(TargetError, match="no finished targets"):
        read_targets(tmp_path)

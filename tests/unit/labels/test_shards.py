"""Feature and label files: streamed, atomic, verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fairseq.data import Dictionary

from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.features import stored
from fairseq_mtssl.labels import shards
from fairseq_mtssl.labels.folder import LabelFolder

LENGTHS = [3, 0, 5, 1, 2]
DIM = 4


def utterances() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((length, DIM)).astype(np.float32) for length in LENGTHS]


def write_features(folder: Path, nshard: int) -> list[np.ndarray]:
    data = utterances()
    for rank in range(nshard):
        with stored.FeatureWriter(folder, "train", rank, nshard, DIM) as writer:
            for row in stored.shard_rows(len(data), rank, nshard):
                writer.append(data[row])
    return data


def write_label_shards(folder: Path, nshard: int) -> None:
    for rank in range(nshard):
        rows = stored.shard_rows(len(LENGTHS), rank, nshard)
        path = stored.shard_path(folder, "train", rank, nshard, ".km")
        shards.write_labels(path, (np.arange(LENGTHS[row]) % 3 for row in rows))


@pytest.mark.parametrize("nshard", [1, 2, 5, 7])
def test_features_come_back_in_order_whatever_the_sharding(tmp_path: Path, nshard: int) -> None:
    data = write_features(tmp_path, nshard)
    found = stored.FeatureShards(tmp_path, "train")
    assert found.lengths.tolist() == LENGTHS and found.dim == DIM
    for index, features in enumerate(data):
        np.testing.assert_array_equal(found[index], features)


def test_a_shard_is_a_plain_npy_and_its_lengths_are_lines(tmp_path: Path) -> None:
    data = write_features(tmp_path, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "train_0_1.npy"), np.concatenate(data))
    assert (tmp_path / "train_0_1.len").read_text() == "3\n0\n5\n1\n2\n"


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(TargetError, match=r"\(2, 3\), wanted \(T, 4\)"),
        stored.FeatureWriter(tmp_path, "train", 0, 1, DIM) as writer,
    ):
        writer.append(np.zeros((2, 3)))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_feature_shard_is_named_with_its_command(tmp_path: Path) -> None:
    write_features(tmp_path, 5)
    (tmp_path / "train_3_5.npy").unlink()
    with pytest.raises(TargetError, match=r"train_3_5.npy is missing. Write it with --shard 3/5"):
        stored.FeatureShards(tmp_path, "train")


def test_shards_of_two_ways_of_sharding_are_refused(tmp_path: Path) -> None:
    write_features(tmp_path, 2)
    write_features(tmp_path, 5)
    with pytest.raises(TargetError, match=r"nshard \[2, 5\]"):
        stored.FeatureShards(tmp_path, "train")


def test_lengths_that_do_not_sum_to_the_rows_are_refused(tmp_path: Path) -> None:
    write_features(tmp_path, 1)
    (tmp_path / "train_0_1.len").write_text("3\n0\n5\n1\n")
    with pytest.raises(TargetError, match="train_0_1.len sums to 9 frames, train_0_1.npy has 11 rows"):
        stored.FeatureShards(tmp_path, "train")


def test_a_truncated_npy_is_refused(tmp_path: Path) -> None:
    write_features(tmp_path, 1)
    path = tmp_path / "train_0_1.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TargetError, match="train_0_1.npy cannot be read"):
        stored.FeatureShards(tmp_path, "train")


@pytest.mark.parametrize("nshard", [1, 2, 5, 7])
def test_merged_labels_are_the_same_bytes_whatever_the_sharding(tmp_path: Path, nshard: int) -> None:
    write_label_shards(tmp_path, nshard)
    counts = shards.merge_labels(tmp_path, tmp_path, "train", nshard, LENGTHS, 4)
    assert (tmp_path / "train.km").read_bytes() == b"0 1 2\n\n0 1 2 0 1\n0\n0 1\n"
    assert counts.tolist() == [5, 4, 2, 0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"train_1_2.km is missing. Write it with --shard 1/2"),
        (lambda path: path.write_bytes(b"0 1 2 0 1\n0\n"), r"train_1_2.km: 2 lines, wanted 3"),
        (lambda path: path.write_bytes(b"0 1 2 0 1\n0\n0 1\n\n"), r"train_1_2.km: 4 lines, wanted 3"),
        (lambda path: path.write_bytes(b"0 1 2 0 1\n0\n0"), r"train_1_2.km line 3: cut off"),
        (lambda path: path.write_bytes(b"0 1 2 0\n0\n0 1\n"), r"train_1_2.km line 1: 4 labels, wanted 5"),
        (lambda path: path.write_bytes(b"0 1 2 4 x\n0\n0 1\n"), r"line 1: labels 4, x, wanted 0 to 3"),
    ],
)
def test_a_merge_verifies_every_count_and_writes_nothing_otherwise(tmp_path: Path, spoil, message) -> None:
    write_label_shards(tmp_path, 2)
    spoil(tmp_path / "train_1_2.km")
    with pytest.raises(TargetError, match=message):
        shards.merge_labels(tmp_path, tmp_path, "train", 2, LENGTHS, 4)
    assert not list(tmp_path.glob("train.km*"))


def test_the_dictionary_is_fairseqs_and_comes_back(tmp_path: Path) -> None:
    shards.write_dictionary(tmp_path, 3)
    assert (tmp_path / "dict.km.txt").read_text() == "0 1\n1 1\n2 1\n"
    assert LabelFolder(tmp_path).symbols == ["0", "1", "2"]
    assert len(Dictionary.load(str(tmp_path / "dict.km.txt"))) == 3 + 4  # four special symbols


@pytest.mark.parametrize("text", ["4/4", "1", "-1/2", "a/b", "0/0"])
def test_a_shard_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="wanted r/n"):
        stored.parse_shard(text)
    assert stored.parse_shard("3/4") == (3, 4)

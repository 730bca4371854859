"""Stages on made-up features: any sharding, folders that are not mixed, one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_mtssl.data.splits import Split
from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.features.utterances import UtteranceFrames, computed
from fairseq_mtssl.labels import pipeline
from fairseq_mtssl.labels.pipeline import Recipe, make_targets
from fairseq_mtssl.prefetch import read_ahead

SIZES = np.array([4000, 399, 8000, 2500, 6400, 700])


class Energies:
    """Two numbers a frame; `slip` frames too many."""

    dim, hop_samples, window_samples = 2, 320, 400

    def __init__(self, slip: int = 0) -> None:
        self.names, self.source = ["energies"], {"features": "energies"}
        self.slip = slip

    def extract(self, wavs: Any) -> list[np.ndarray]:
        frames = [max(0, (len(wav) - 400) // 320 + 1) + self.slip for wav in wavs]
        found = [
            np.stack([wav[: 320 * count : 320][:count], wav[10 : 320 * count + 10 : 320][:count]], axis=1)
            if count
            else np.zeros((0, 2), dtype=np.float32)
            for wav, count in zip(wavs, frames, strict=True)
        ]
        return [each[:, np.newaxis] for each in found]


def read(row: int) -> np.ndarray:
    return np.random.default_rng(row).standard_normal(SIZES[row]).astype(np.float32)


def splits(batch_samples: int | None = None, slip: int = 0) -> list[UtteranceFrames]:
    both = [Split("train", SIZES, read, "t"), Split("valid", SIZES[:2], read, "v")]
    return [computed(split, Energies(slip), batch_samples) for split in both]


def make(out: Path, batch_samples: int | None = None, **changes: Any) -> dict[str, Any]:
    return make_targets(splits(batch_samples), out, Recipe(**{"clusters": 5, "kmeans": "torch", **changes}))


def test_labels_are_the_same_bytes_whatever_the_sharding_and_the_batch(tmp_path: Path) -> None:
    changes = [{}, {"shard_minutes": 0.005}, {"batch_samples": 5000}, {"store_features": True}]
    for number, change in enumerate(changes):
        make(tmp_path / str(number), **change)
    for file in ("train.km", "valid.km", "codebook.npy", "targets.json", "dict.km.txt"):
        assert len({(tmp_path / str(number) / file).read_bytes() for number in range(len(changes))}) == 1


def test_clips_without_a_frame_have_an_empty_line_and_are_counted(tmp_path: Path) -> None:
    about = make(tmp_path)
    assert (tmp_path / "train.km").read_text().split("\n")[1] == ""
    assert about["splits"]["train"]["without_frames"] == 1
    assert about["splits"]["train"]["frames"] == 12 + 24 + 7 + 19 + 1


def test_features_that_miss_their_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="row 1: features of 13 frames, wanted 12"):
        make_targets(splits(slip=1), tmp_path, Recipe(clusters=5, kmeans="torch"))


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with pipeline.locked(tmp_path), pytest.raises(TargetError, match="another process"):
        make(tmp_path)
    make(tmp_path)


def test_files_of_something_else_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.km").write_text("1 2 3\n")
    with pytest.raises(TargetError, match="holds train.km of something else"):
        make(tmp_path)
    assert (tmp_path / "train.km").read_text() == "1 2 3\n"


def test_a_begun_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    plan = pipeline.plan_of(splits(), Recipe(clusters=4))
    pipeline.start(tmp_path, tmp_path / "parts", plan)
    with pytest.raises(TargetError, match="made with clusters 4, now asked for 5"):
        make(tmp_path)


def test_a_finished_folder_that_lost_a_split_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "valid.km").unlink()
    with pytest.raises(TargetError, match="valid.km is missing"):
        make(tmp_path)


def test_the_codebook_is_learned_on_a_split_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'dev' is not among the splits"):
        make(tmp_path, fit_split="dev")


def test_a_corrupt_part_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    monkeypatch.undo()
    part = tmp_path / "parts" / "train_0_1.km"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(TargetError, match=r"train_0_1.km line 6: cut off, .* Delete train_0_1.km and"):
        make(tmp_path)
    part.unlink()
    make(tmp_path)


def test_reading_ahead_keeps_the_order_and_passes_errors_on() -> None:
    assert list(read_ahead(lambda row: row * row, range(50))) == [row * row for row in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda row: 1 // (3 - row), range(50)))

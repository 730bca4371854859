"""Frames of the utterances of a split: computed, stored, checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairseq_mtssl.data.splits import Split
from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.features.mfcc import Mfcc
from fairseq_mtssl.features.stored import FeatureWriter, write_description
from fairseq_mtssl.features.utterances import UtteranceFrames, computed, stored

SIZES = np.array([4000, 399, 8000])


def read(row: int) -> np.ndarray:
    return np.random.default_rng(row).standard_normal(SIZES[row]).astype(np.float32)


def split(sizes: np.ndarray = SIZES) -> Split:
    return Split("train", sizes, read, "digest")


def store(folder: Path, frames: UtteranceFrames, nshard: int = 2) -> None:
    write_description(folder, frames.about)
    for rank in range(nshard):
        with FeatureWriter(folder, "train", rank, nshard, frames.dim) as writer:
            for row in range(len(frames))[rank * 2 : rank * 2 + 2]:
                writer.append(next(frames.stream([row]))[:, 0])


def test_frames_are_what_the_extractor_gives_in_the_order_of_the_rows() -> None:
    frames = computed(split(), Mfcc())
    assert (len(frames), frames.names, frames.dim, frames.rate_hz, frames.kind) == (
        3,
        ["mfcc"],
        39,
        100.0,
        "features",
    )
    # (samples − 400) / 160 + 1, rounded down
    assert frames.counts.tolist() == [23, 0, 48] and frames.audio_s == pytest.approx(12_399 / 16_000)
    for batch_samples in (None, 5000):
        rows = [2, 0, 1]
        found = computed(split(), Mfcc(), batch_samples).read(rows, "test")
        for row, each in zip(rows, found, strict=True):
            assert each.shape == (frames.counts[row], 1, 39)
            np.testing.assert_array_equal(each, Mfcc().extract([read(row)])[0])


def test_stored_frames_are_the_computed_ones(tmp_path: Path) -> None:
    frames = computed(split(), Mfcc())
    store(tmp_path, frames)
    for again in (stored(tmp_path, "train"), stored(tmp_path, "train", split())):
        assert (again.about, again.names, again.dim) == (frames.about, frames.names, frames.dim)
        assert (again.rate_hz, again.kind) == (frames.rate_hz, frames.kind)
        for one, other in zip(again.read([1, 2, 0], "a"), frames.read([1, 2, 0], "b"), strict=True):
            np.testing.assert_array_equal(one, other)


def test_stored_frames_of_other_utterances_are_refused(tmp_path: Path) -> None:
    store(tmp_path, computed(split(), Mfcc()))
    with pytest.raises(TargetError, match="1 utterances have other frames than the 3 rows of train.tsv"):
        stored(tmp_path, "train", split(SIZES + [0, 0, 160]))
    with pytest.raises(TargetError, match="3 utterances than the 2 rows of train.tsv"):
        stored(tmp_path, "train", split(SIZES[:2]))


def test_an_utterance_of_another_length_is_refused_when_its_turn_comes() -> None:
    found = computed(split(SIZES + [0, 0, 160]), Mfcc()).read([0, 2], "test")
    assert len(next(found)) == 23
    with pytest.raises(TargetError, match="row 3: features of 48 frames, wanted 49"):
        next(found)

"""A part of the training pairs: which, and where the manifests point."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import tiny_corpora
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mtssl.corpora import fewer_pairs as fewer
from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.data.manifest import PairRow, read_pair_manifest, write_pair_manifest
from fairseq_mtssl.errors import ConfigError

IDS = [f"i{row // 3}" for row in range(12)]  # four images with three captions each


def test_by_image_whole_images_are_kept() -> None:
    rows = fewer.choose(IDS, 6, "image", 0)
    assert rows == sorted(rows) and sorted(Counter(IDS[row] for row in rows).values()) == [3, 3]
    assert sorted(Counter(IDS[row] for row in fewer.choose(IDS, 7, "image", 0)).values()) == [1, 3, 3]


def test_by_caption_every_image_has_one_before_any_has_two() -> None:
    assert len({IDS[row] for row in fewer.choose(IDS, 3, "caption", 0)}) == 3
    assert sorted(Counter(IDS[row] for row in fewer.choose(IDS, 6, "caption", 0)).values()) == [1, 1, 2, 2]
    # an image with fewer captions than others gives all it has
    uneven = ["a", "b", "b", "b"]
    assert Counter(uneven[row] for row in fewer.choose(uneven, 3, "caption", 0)) == {"a": 1, "b": 2}


@given(
    ids=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30),
    by=st.sampled_from(["image", "caption"]),
    data=st.data(),
)
def test_a_smaller_choice_is_part_of_a_larger_and_all_is_all(ids, by, data) -> None:
    small = data.draw(st.integers(1, len(ids)))
    large = data.draw(st.integers(small, len(ids)))
    chosen = fewer.choose(ids, small, by, 1)
    assert len(chosen) == len(set(chosen)) == small
    assert set(chosen) <= set(fewer.choose(ids, large, by, 1))
    assert fewer.choose(ids, len(ids), by, 1) == list(range(len(ids)))


def test_seeds_choose_differently() -> None:
    many = [str(number) for number in range(100)]
    assert fewer.choose(many, 10, "image", 0) != fewer.choose(many, 10, "image", 1)


def test_the_manifests_point_to_the_same_files_and_other_splits_are_whole(tmp_path: Path) -> None:
    whole = tiny_corpora.make_corpus(tmp_path / "here" / "whole")
    out = tmp_path / "here" / "few"
    prepare("fewer_pairs", ["--data", str(whole), "--out", str(out), "--pairs", "4"])
    part, all_pairs = read_pair_manifest(out, "train"), read_pair_manifest(whole, "train")
    assert len(part) == 4 and set(part.caption_ids) < set(all_pairs.caption_ids)
    rows = [all_pairs.caption_ids.index(caption) for caption in part.caption_ids]
    for column in ("images", "image_ids", "labels", "speakers", "texts"):
        assert getattr(part, column) == [getattr(all_pairs, column)[row] for row in rows]
    assert [*part.audio.sizes] == [*all_pairs.audio.sizes[rows]]
    assert all(Path(part.audio.audio_path(row)).is_file() for row in range(4))
    assert all(part.image_path(image_id).is_file() for image_id in part.image_ids)
    for split in ("valid", "test"):
        assert read_pair_manifest(out, split).caption_ids == read_pair_manifest(whole, split).caption_ids
    # both together can be moved
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = read_pair_manifest(tmp_path / "there" / "few", "train")
    assert Path(moved.audio.audio_path(0)).is_file()


def test_absolute_roots_outside_are_found(tmp_path: Path) -> None:
    tiny_corpora.make_pairs(tmp_path / "files", "train", 4)
    rows = [PairRow(f"train_{n}.wav", 6400, f"c{n}", f"train_{n}.png", f"i{n}") for n in range(4)]
    roots = {
        f"{kind}_root": tmp_path / "files" / folder
        for kind, folder in (("audio", "audio"), ("image", "images"))
    }
    write_pair_manifest(tmp_path / "deep" / "data", "train", rows, **roots)
    prepare(
        "fewer_pairs",
        ["--data", str(tmp_path / "deep" / "data"), "--out", str(tmp_path / "few"), "--pairs", "2"],
    )
    part = read_pair_manifest(tmp_path / "few", "train")
    assert all(Path(part.audio.audio_path(row)).is_file() for row in range(2))
    assert all(part.image_path(image_id).is_file() for image_id in part.image_ids)


@pytest.mark.parametrize(
    ("words", "word"), [(["--pairs", "11"], "wanted 1 to 10"), (["--pairs", "0"], "got 0")]
)
def test_numbers_that_there_are_not_are_refused(words, word, tmp_path: Path) -> None:
    whole = tiny_corpora.make_corpus(tmp_path / "whole")
    with pytest.raises(ConfigError, match=word):
        prepare("fewer_pairs", ["--data", str(whole), "--out", str(tmp_path / "few"), *words])
    with pytest.raises(ConfigError, match="is --data itself"):
        prepare("fewer_pairs", ["--data", str(whole), "--out", str(whole), "--pairs", "2"])

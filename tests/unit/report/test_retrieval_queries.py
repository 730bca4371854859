"""What captions and images find, for the page: right rows, right ranks, the very sound."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pages
import pytest
import soundfile
import torch
from PIL import Image

from fairseq_mtssl.inference.embeddings import EncodedSplit, encode_split
from fairseq_mtssl.report import retrieval_queries
from fairseq_mtssl.report.retrieval_gallery import Clip, Picture
from fairseq_mtssl.report.retrieval_queries import MOST_IMAGES, Gallery

VALUES = [0.05, 0.3, 0.5, 0.7, 0.95]


@pytest.fixture
def encoded(tmp_path: Path) -> EncodedSplit:
    task = fakes.FakeTask(str(fakes.write_corpus(tmp_path, VALUES)))
    return encode_split(fakes.FakeModel(), task.load_dataset("test"), 4, torch.device("cpu"))


def build_gallery(split: EncodedSplit, *more: Any, **options: Any) -> Gallery:
    arrays = (split.manifest, split.speech, split.image)
    return retrieval_queries.build_gallery(*arrays, *more, **options)


def heard(clip: Clip) -> np.ndarray:
    return soundfile.read(io.BytesIO(pages.decoded(clip.uri)))[0]


def test_a_perfect_model_finds_its_image_first(encoded: EncodedSplit) -> None:
    gallery = build_gallery(encoded, "image", 5)
    assert [query.rank for query in gallery.captions] == [1.0] * 5
    for place, query in enumerate(gallery.captions):
        assert isinstance(query.item, Clip) and query.item.name == f"test_{place}_0"
        assert query.own is not None and query.own.name == f"i{place}" == query.answers[0].item.name
        assert [answer.right for answer in query.answers] == [True, False, False, False, False]
        assert query.candidates == 5 and query.right_score == pytest.approx(query.answers[0].score)


def test_a_caption_sounds_as_its_file_and_its_picture_is_its_own(encoded: EncodedSplit) -> None:
    for place, query in enumerate(build_gallery(encoded, "image", 5).captions):
        assert isinstance(query.item, Clip) and query.own is not None and query.own.uri is not None
        expected, _ = soundfile.read(encoded.manifest.audio.audio_path(place))
        assert np.array_equal(heard(query.item), expected)
        assert query.item.seconds == len(expected) / 16_000
        pixel = Image.open(io.BytesIO(pages.decoded(query.own.uri))).getpixel((0, 0))
        assert pixel == (round(255 * VALUES[place]),) * 3


def test_no_more_is_heard_than_the_model_heard(encoded: EncodedSplit) -> None:
    query = build_gallery(encoded, "image", 1, max_samples=800).captions[0]
    assert isinstance(query.item, Clip) and len(heard(query.item)) == 800 and query.item.seconds == 0.05


def test_images_find_their_captions(encoded: EncodedSplit) -> None:
    for query in build_gallery(encoded, "image", 5).images:
        assert isinstance(query.item, Picture) and query.own is None and query.candidates == 10
        right = [answer.item.name for answer in query.answers if answer.right]
        number = query.item.name.removeprefix("i")
        assert sorted(right) == [f"test_{number}_0", f"test_{number}_1"] and query.rank == 1.0


def test_any_image_of_the_label_is_right_where_that_is_asked_for(encoded: EncodedSplit) -> None:
    query = build_gallery(encoded, "label", 5).captions[1]  # 0.3, whose label the image 0.7 has, too
    right = {answer.item.name for answer in query.answers if answer.right}
    assert right == {"i1", "i3"}


def test_fewer_captions_lie_at_equal_distances_and_ask_for_as_many_images(encoded: EncodedSplit) -> None:
    gallery = build_gallery(encoded, "image", 2)
    assert [query.item.name for query in gallery.captions] == ["test_0_0", "test_2_0"]
    assert [query.item.name for query in gallery.images] == ["i0", "i2"]
    assert len(build_gallery(encoded, "image", 99).captions) == 5 <= MOST_IMAGES


def test_ties_give_the_mean_rank(encoded: EncodedSplit) -> None:
    tied = EncodedSplit(encoded.manifest, torch.ones(10, 2), torch.ones(5, 2))
    gallery = build_gallery(tied, "image", 2)
    assert gallery.captions[0].rank == 3.0  # one of five, all equal
    assert gallery.images[0].rank == pytest.approx(11 / 3)  # the first of two among ten


def test_a_caption_that_nothing_is_right_for_has_no_rank(tmp_path: Path) -> None:
    fakes.write_corpus(tmp_path, VALUES)
    pairs = tmp_path / "test.pairs"
    lines = pairs.read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    without = ["\t".join([*row[:3], "", *row[4:]]) if row[2:3] == ["i2"] else "\t".join(row) for row in cells]
    pairs.write_text("\n".join(without) + "\n")
    dataset = fakes.FakeTask(str(tmp_path)).load_dataset("test")
    split = encode_split(fakes.FakeModel(), dataset, 4, torch.device("cpu"))
    query = build_gallery(split, "label", 5).captions[2]
    assert query.rank is None and query.right_score is None and not query.hit


def test_an_image_without_a_file_is_counted_not_refused(encoded: EncodedSplit) -> None:
    encoded.manifest.image_path("i2").unlink()
    gallery = build_gallery(encoded, "image", 5)
    assert set(gallery.absent) == {"i2"} and "test_2.png" in gallery.absent["i2"]
    own = gallery.captions[2].own
    assert own is not None and own.uri is None and own.name == "i2"

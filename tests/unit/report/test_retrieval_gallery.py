"""The gallery as HTML: what is in it, marked how, with nothing of a corpus taken for HTML."""

from __future__ import annotations

import io
from dataclasses import replace

import pages
import pytest
import soundfile
from PIL import Image

from fairseq_mtssl.report.retrieval_gallery import Answer, Clip, Picture, Query, gallery_markup

HOSTILE = "</li><script>alert('\"&<')</script>"


def parts(queries: list[Query]) -> pages.PageParts:
    found = pages.PageParts(gallery_markup(queries, "g"))
    assert not found.errors
    return found


def test_every_caption_can_be_heard_and_every_image_seen() -> None:
    found = parts(pages.queries([1, 9]))
    clips = [soundfile.info(io.BytesIO(pages.decoded(audio["src"]))) for audio in found.all("audio")]
    assert [info.frames for info in clips] == [8000, 8000]
    assert all(
        "controls" in audio and audio["aria-label"].startswith("Listen: ") for audio in found.all("audio")
    )
    images = found.all("img")
    assert len(images) == 2 * (1 + 3) and all(image["alt"] for image in images)
    assert Image.open(io.BytesIO(pages.decoded(images[0]["src"]))).size == (20, 20)


def test_hits_and_misses_are_told_by_sign_and_word_and_counted() -> None:
    found = parts(pages.queries([1, 3, 9, 4.5]))
    assert [card["data-outcome"] for card in found.all("li") if card.get("class") == "card"] == [
        *["hit"] * 2,
        *["miss"] * 2,
    ]
    text = " ".join(found.texts)
    assert "✓ rank 1 of 10" in text and "✗ rank 4.5 of 10" in text
    assert "All 4" in text and "Hits 2" in text and "Misses 2" in text
    labels = [mark["aria-label"] for mark in found.all("span") if mark.get("class") == "mark"]
    assert labels == [*["right", "wrong", "wrong"], *["wrong", "wrong", "right"], *["wrong"] * 6]


def test_ranks_and_scores_of_answers_are_there() -> None:
    text = " ".join(parts(pages.queries([2])).texts)
    assert "0.900" in text and "0.800" in text and "rank 2 of 10, score 0.800" in text


def test_images_find_captions_to_be_heard() -> None:
    found = parts(pages.image_queries([1, 5]))
    assert len(found.all("audio")) == 4 and len(found.all("img")) == 2
    assert "Image q0" in " ".join(found.texts)


@pytest.mark.parametrize("where", ["text", "name", "label", "speaker"])
def test_nothing_of_a_corpus_is_taken_for_html(where: str) -> None:
    (query,) = pages.queries([1])
    spoken = replace(pages.clip("c", "said"), **{where: HOSTILE})
    seen = replace(pages.picture("p"), name=HOSTILE, label=HOSTILE)
    asked = [replace(query, item=spoken, own=seen, answers=[Answer(seen, 1.0, True)])]
    asked.append(Query(seen, [Answer(spoken, 1.0, False)], None, None, 3))
    found = parts(asked)
    assert not found.all("script")
    assert any(HOSTILE in text for text in found.texts)


def test_an_image_without_a_file_shows_its_id() -> None:
    (query,) = pages.queries([1])
    found = parts([replace(query, own=Picture("lost", None))])
    assert len(found.all("img")) == 3 and "lost" in found.texts


def test_a_caption_without_text_is_called_by_its_id_and_none_right_is_said() -> None:
    query = Query(pages.clip("c7"), [Answer(pages.picture("p"), 0.1, False)], None, None, 4)
    text = " ".join(parts([query]).texts)
    assert "c7" in text and "✗ no right answer" in text


def test_no_id_comes_twice_in_two_galleries() -> None:
    asked = pages.queries([1, 2])
    ids = pages.PageParts(gallery_markup(asked, "a") + gallery_markup(asked, "b")).ids
    assert ids and len(ids) == len(set(ids))


def test_a_clip_is_titled_by_what_it_says() -> None:
    assert Clip("id", "said", "", 1.0).title == "said" and Clip("id", "", "", 1.0).title == "id"

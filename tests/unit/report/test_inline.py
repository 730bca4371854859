"""Pictures, sound and drawings inside a page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pages
import pytest
import soundfile
from PIL import Image

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.report.canvas import COLOURS, new_figure
from fairseq_mtssl.report.inline import PAGE_COLOURS, audio_uri, inline_svg, picture_uri


def decode(uri: str) -> tuple[str, bytes]:
    mime, _, data = uri.removeprefix("data:").partition(";base64,")
    return mime, base64.b64decode(data)


@pytest.mark.parametrize("samples", [1, 399, 16_000, 40_001])
def test_sound_decodes_back_to_the_very_samples(samples: int) -> None:
    rng = np.random.default_rng(samples)
    pcm = rng.integers(-32768, 32768, size=samples).astype(np.int16)
    mime, data = decode(audio_uri(pcm, 16_000))
    found, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert mime == "audio/flac" and rate == 16_000 and np.array_equal(found, pcm)


def test_speech_takes_less_than_its_samples() -> None:
    time = np.arange(32_000) / 16_000
    pcm = (8000 * np.sin(2 * np.pi * 200 * time)).astype(np.int16)
    assert len(audio_uri(pcm, 16_000)) < 0.7 * pcm.nbytes


@pytest.mark.parametrize(
    ("size", "mime", "side"), [((500, 300), "image/jpeg", 224), ((20, 30), "image/png", 20)]
)
def test_pictures_are_squares_of_bounded_size_in_the_shorter_format(
    size: tuple[int, int], mime: str, side: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(size[1], size[0], 3)) if size[0] > 100 else np.zeros((30, 20, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    uri, told = picture_uri(tmp_path / "a.png")
    found, data = decode(uri)
    with Image.open(io.BytesIO(data)) as picture:
        assert (found, picture.size, told) == (mime, (side, side), side)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        picture_uri(tmp_path / "broken.png")


def drawing(name: str) -> str:
    figure = new_figure(3, 2)
    axis = figure.subplots()
    for place, colour in enumerate(COLOURS):
        axis.plot([0, 1], [place, 1], color=colour, label='<b> id="x" #000000')
    axis.axvline(0.5, color="0.35")
    axis.set_ylabel("a < b & c")
    axis.legend()
    return inline_svg(figure, name, 'what "is" <seen>')


def test_a_drawing_takes_the_colours_of_the_page() -> None:
    svg = drawing("one")
    styles = " ".join(re.findall(r'style="([^"]*)"', svg))
    assert not re.findall(r"#[0-9a-f]{6}", styles)
    assert {f"var(--curve-{i})" for i in range(6)} <= set(re.findall(r"var\(--curve-\d\)", styles))
    assert "currentColor" in styles and "var(--muted)" in styles


def test_a_drawing_leads_nowhere_and_styles_nothing_else() -> None:
    svg = drawing("one")
    assert not re.search(r"https?:|<style|<!DOCTYPE|<\?xml|<metadata", svg)
    assert set(re.findall(r'href="(.)', svg)) == {"#"}


def test_two_drawings_of_one_page_share_no_id() -> None:
    ids = [set(pages.PageParts(drawing(name)).ids) for name in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]
    referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', drawing("one")))
    assert referred and referred <= ids[0]


def test_the_texts_of_a_drawing_stay_as_they_are() -> None:
    texts = pages.PageParts(drawing("one")).texts
    assert "a < b & c" in texts and '<b> id="x" #000000' in texts
    (svg,) = pages.PageParts(drawing("one")).all("svg")
    assert svg["role"] == "img" and svg["aria-label"] == 'what "is" <seen>' and svg["viewbox"]


def test_every_colour_of_the_pictures_has_one_of_the_page() -> None:
    style = Path(__file__).parents[3] / "fairseq_mtssl" / "report" / "page.css"
    named = set(re.findall(r"(--[\w-]+):", style.read_text(encoding="utf-8")))
    for colour in PAGE_COLOURS.values():
        assert colour == "currentColor" or colour.removeprefix("var(").removesuffix(")") in named

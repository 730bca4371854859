"""Images, sound and figures as text inside an HTML page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from fairseq_mtssl.report.canvas import COLOURS
from fairseq_mtssl.report.gallery import thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JPEG_QUALITY = 85
PICTURE_PX = 224  # twice the size on the page, for screens with twice the pixel density
TEXT, PAPER, MUTED, LINE = "currentColor", "var(--panel)", "var(--muted)", "var(--line)"
# Colours in the SVG of matplotlib -> colours of the page, which depend on light or dark mode.
PAGE_COLOURS = {
    "#000000": TEXT,
    "#ffffff": PAPER,
    **dict.fromkeys(("#333333", "#404040", "#595959"), MUTED),  # "0.2", "0.25" and "0.35" of the figures
    **dict.fromkeys(("#b0b0b0", "#cccccc"), LINE),  # grids and frames of legends
    **{colour.lower(): f"var(--curve-{i})" for i, colour in enumerate(COLOURS) if colour != "#000000"},
}
NOT_DRAWN = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>", re.S)
ELEMENT = re.compile(r"<[^>]*>")
NAMES = re.compile(r'(\bid="|url\(#|href="#)')


def data_uri(data: bytes, mime: str) -> str:
    """The data URI of a file's bytes. mime: its MIME type."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def picture_uri(path: str | Path, side_px: int = PICTURE_PX) -> tuple[str, int]:
    """The centred square of an image as a data URI, and its side in pixels.

    The URI holds PNG or JPEG, whichever is smaller.
    side_px: larger images are reduced to this side.
    Raises: ImageError.
    """
    picture = thumbnail(Path(path), side_px)
    encoded = []
    for mime, options in (("image/png", {"optimize": True}), ("image/jpeg", {"quality": JPEG_QUALITY})):
        buffer = io.BytesIO()
        picture.save(buffer, format=mime.partition("/")[2], **options)
        encoded.append((buffer.tell(), mime, buffer.getvalue()))
    _, mime, data = min(encoded)
    return data_uri(data, mime), picture.width


def audio_uri(pcm: np.ndarray, rate_hz: int) -> str:
    """Sound as a data URI of FLAC, which is lossless and which all browsers play. pcm: (T,) int16, T > 0."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate_hz, format="FLAC", subtype="PCM_16")
    return data_uri(buffer.getvalue(), "audio/flac")


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """A figure as SVG for the body of a page, in the colours and the font of the page.

    name: letters and digits, different for every figure of the page; the ids in the SVG begin with it.
    label: a description for screen readers.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = ELEMENT.sub(lambda found: _for_page(found[0], name), NOT_DRAWN.sub("", buffer.getvalue()))
    opening, _, rest = text.partition("<svg")[2].partition(">")
    box = re.search(r'viewBox="[^"]*"', opening)
    if box is None:  # matplotlib always writes it
        raise ValueError("the drawing has no viewBox")
    begin = Markup('<svg role="img" aria-label="{}" ').format(label)
    return begin + Markup(f"{box[0]}>{rest.strip()}")


def _for_page(element: str, name: str) -> str:
    """A tag of the SVG, with ids that begin with the name and with the colours of the page."""
    element = NAMES.sub(rf"\g<1>{name}-", element)
    for colour, ours in PAGE_COLOURS.items():
        element = element.replace(colour, ours)
    return element

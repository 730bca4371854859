"""Pages taken apart, and a gallery of tones and grey squares to put on one."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from fairseq_mtssl.report.inline import audio_uri, data_uri
from fairseq_mtssl.report.retrieval_gallery import Answer, Clip, Picture, Query

VOID = {"meta", "img", "br", "input", "link"}
ADDRESSES = {"src", "href", "xlink:href", "srcset", "poster", "data", "action"}


class PageParts(HTMLParser):
    """Every tag with its attributes, every text, and as errors the tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.errors: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        self.errors += [f"{tag} is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"line {self.getpos()[0]}: </{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every tag of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def addresses(self) -> list[str]:
        """Everything that a browser would follow or load."""
        return [
            value for _, attributes in self.tags for name, value in attributes.items() if name in ADDRESSES
        ]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


def decoded(uri: str) -> bytes:
    """The bytes of a data address."""
    return base64.b64decode(uri.partition(";base64,")[2])


def clip(name: str, text: str = "", seconds: float = 0.5) -> Clip:
    """A tone."""
    wave = np.sin(2 * np.pi * 440 * np.arange(round(16_000 * seconds)) / 16_000)
    return Clip(name, text, audio_uri((9000 * wave).astype(np.int16), 16_000), seconds, speaker="s1")


def picture(name: str, grey: int = 100) -> Picture:
    """A grey square."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (grey, grey, grey)).save(buffer, format="PNG")
    return Picture(name, data_uri(buffer.getvalue(), "image/png"), 20)


def queries(ranks: list[float], answers: int = 3, text: str = "tone") -> list[Query]:
    """Captions whose own image comes at these ranks of ten; those beyond the answers are misses."""
    made = []
    for place, rank in enumerate(ranks):
        found = [
            Answer(picture(f"p{place}.{i}", 20 * i), 0.9 - 0.1 * i, i + 1 == rank) for i in range(answers)
        ]
        own = picture(f"own{place}", 250)
        made.append(Query(clip(f"c{place}", f"{text} {place}"), found, rank, 1 - rank / 10, 10, own))
    return made


def image_queries(ranks: list[float], answers: int = 2) -> list[Query]:
    """The same of images that find captions."""
    made = []
    for place, rank in enumerate(ranks):
        found = [Answer(clip(f"a{place}.{i}", f"tone {i}"), 0.5, i + 1 == rank) for i in range(answers)]
        made.append(Query(picture(f"q{place}"), found, rank, 0.4, 10))
    return made

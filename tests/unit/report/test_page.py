"""The HTML page: everything inside, nothing of a user's text taken for HTML."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import pytest

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.report.page import Section, Table, write_page

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Notes tags that are not closed in order, and everything that is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(tmp_path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG not really")
    sections = [
        Section("Table", "text", Table(["run", "R@1"], [["(W2V2, VGS)", "12.0"]])),
        Section("Picture", picture=picture),
        Section("Commands", code="a && b", folded=True),
    ]
    out = write_page("Title", sections, tmp_path / "deep" / "index.html")
    text = out.read_text(encoding="utf-8")
    page = Balance()
    page.feed(text)
    assert page.open == []
    encoded = base64.b64encode(picture.read_bytes()).decode()
    assert page.sources == [f"data:image/png;base64,{encoded}"]
    assert "<td>12.0</td>" in text and "<details>" in text and "a &amp;&amp; b" in text


def test_text_is_escaped_everywhere(tmp_path) -> None:
    bad = "<script>&\"'"
    section = Section(bad, bad, Table([bad], [[bad]]), code=bad)
    text = write_page(bad, [section], tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>" not in text


def test_a_missing_picture_is_named(tmp_path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png"):
        write_page("t", [Section("p", picture=tmp_path / "absent.png")], tmp_path / "index.html")

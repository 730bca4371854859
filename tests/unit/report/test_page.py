"""The HTML page: everything inside, nothing of a user's text taken for HTML."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pages
import pytest
from markupsafe import Markup

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.report.page import Section, Table, asset, write_page


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
    page = pages.PageParts(text)
    encoded = base64.b64encode(picture.read_bytes()).decode()
    assert not page.errors and page.addresses == [f"data:image/png;base64,{encoded}"]
    assert "<td>12.0</td>" in text and "<details>" in text and "a &amp;&amp; b" in text


def test_text_is_escaped_everywhere(tmp_path) -> None:
    bad = "<script>&\"'"
    section = Section(bad, bad, Table([bad], [[bad]]), [(bad, bad)], markup=bad, code=bad)
    text = write_page(bad, [section], tmp_path / "index.html", [(bad, bad)]).read_text(encoding="utf-8")
    assert "<script>" not in text


def test_a_missing_picture_is_named(tmp_path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png"):
        write_page("t", [Section("p", picture=tmp_path / "absent.png")], tmp_path / "index.html")


def test_a_long_page_has_contents_that_lead_to_every_section(tmp_path) -> None:
    titles = ["Training", "ABX (a.json)", "→", "Training", "<Last>"]
    text = write_page("t", [Section(title) for title in titles], tmp_path / "p.html").read_text("utf-8")
    page = pages.PageParts(text)
    assert not page.errors
    assert page.addresses == ["#training", "#abx-a-json", "#-2", "#training-3", "#last"]
    assert [f"#{name}" for name in page.ids] == page.addresses


def test_a_script_runs_at_the_end_and_is_announced_at_the_beginning(tmp_path) -> None:
    section = Section("s", markup=Markup("<p>body</p>"))
    out = write_page("t", [section], tmp_path / "p.html", [("lead", "1")], "go(1 && 2);")
    text = out.read_text(encoding="utf-8")
    places = [text.index(part) for part in ('classList.add("js")', "<dt>lead", "<p>body", "go(1 && 2);")]
    assert places == sorted(places) and not pages.PageParts(text).errors


def test_facts_without_a_value_are_left_out(tmp_path) -> None:
    facts = [("a", "<1>"), ("b", "")]
    text = write_page("t", [Section("s", facts=facts)], tmp_path / "p.html", facts).read_text("utf-8")
    assert text.count("<dl><dt>a</dt><dd>&lt;1&gt;</dd></dl>") == text.count("<dl>") == 2


def test_the_style_loads_nothing_and_ends_no_element() -> None:
    for name in ("page.css", "gallery.js"):
        assert not re.search(r"</|url\(|@import|https?:|fetch\(|import\(", asset(name))


def test_what_the_page_needs_is_installed_with_the_package() -> None:
    setup = (Path(__file__).parents[3] / "setup.py").read_text(encoding="utf-8")
    assert '"fairseq_mtssl.report": ["*.css", "*.js", "templates/*.j2"]' in setup

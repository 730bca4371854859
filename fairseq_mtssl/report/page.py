"""Writes an HTML page that needs no other file: texts, tables, images and commands in jinja2 templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.report.inline import data_uri

FEW_SECTIONS = 4  # a page of no more sections than this has no table of contents


@dataclass(frozen=True)
class Table:
    """header: names of the columns. rows: cells, with text in the first column and numbers in the others."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading and its content, in the order of the fields.

    facts: pairs of a name and a text; those without a text are left out. markup: HTML from `render`; a plain
    string is escaped. picture: a PNG file. code: text that keeps its line breaks. folded: whether the code is
    hidden until a click.
    """

    title: str
    text: str = ""
    table: Table | None = None
    facts: Sequence[tuple[str, str]] = ()
    markup: str = ""
    picture: Path | None = None
    code: str = ""
    folded: bool = False


def render(template: str, **values: Any) -> Markup:
    """The HTML of a template in templates/. Values are escaped unless they are Markup."""
    return Markup(_environment().get_template(f"{template}.html.j2").render(values))


def write_page(
    title: str,
    sections: Sequence[Section],
    out: str | Path,
    facts: Sequence[tuple[str, str]] = (),
    script: str = "",
) -> Path:
    """Write a page that contains its images. Returns: its path.

    facts: as in `Section`, placed before the first section. script: JavaScript that runs at the end; the page
    can be read without it.
    Raises: ImageError for a picture that cannot be read.
    """
    named = list(zip(sections, _anchors(sections), strict=True))
    shared = {"few": FEW_SECTIONS, "style": Markup(asset("page.css")), "script": Markup(script)}
    html = render("page", title=title, facts=facts, sections=named, **shared)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def asset(name: str) -> str:
    """The text of a file of this folder, such as page.css."""
    return files("fairseq_mtssl.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fairseq_mtssl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["png"] = _png_uri
    return environment


def _anchors(sections: Sequence[Section]) -> list[str]:
    """An id for each section, of letters, digits and hyphens; no two are equal."""
    words = [re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") for section in sections]
    return [
        f"{word}-{place}" if not word or words.index(word) < place else word
        for place, word in enumerate(words)
    ]


def _png_uri(path: Path) -> str:
    try:
        return data_uri(path.read_bytes(), "image/png")
    except OSError as error:
        hint = "Draw it again, then write the page."
        raise ImageError(path, f"cannot be read ({error.strerror})", hint) from error

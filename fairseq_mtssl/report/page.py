"""One self-contained HTML page: text, tables, pictures and commands, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fairseq_mtssl.errors import ImageError

FEW_SECTIONS = 4  # no more than these and the page needs no contents


@dataclass(frozen=True)
class Table:
    """header: the columns' names; rows: as many cells each. The first column is text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading and what is under it, in this order: text, table, markup, picture (a PNG file), code.

    markup: HTML, all text in it escaped. code: shown as it is. folded: the code is shown on a click only.
    """

    title: str
    text: str = ""
    table: Table | None = None
    markup: str = ""
    picture: Path | None = None
    code: str = ""
    folded: bool = False


def write_page(
    title: str, sections: Sequence[Section], out: str | Path, lead: str = "", script: str = ""
) -> Path:
    """Write the page, pictures inside; returns its path.

    lead: HTML between the title and the first section. script: JavaScript that runs when all is there; the
    page is of use without it.
    Raises: ImageError for a picture that cannot be read.
    """
    names = _anchors(sections)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if lead:
        parts.append(lead)
    if len(sections) > FEW_SECTIONS:
        parts.append(_contents(sections, names))
    parts += ["<main>", *map(_section, sections, names), "</main>"]
    if script:
        parts = [BEFORE_ANYTHING_SHOWS, *parts, f"<script>\n{script}</script>"]
    body = "\n".join(parts)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{asset('page.css')}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return out


# what a script will fold away is not to be seen first
BEFORE_ANYTHING_SHOWS = '<script>document.documentElement.classList.add("js")</script>'


def asset(name: str) -> str:
    """The text of a file of this folder, such as page.css."""
    return files("fairseq_mtssl.report").joinpath(name).read_text(encoding="utf-8")


def table_markup(table: Table) -> str:
    """A table that scrolls sideways by itself where the window is narrow."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
    return f'<div class="scroll" tabindex="0"><table>\n{inside}</table></div>'


def facts_markup(facts: Sequence[tuple[str, str]], attributes: str = "") -> str:
    """Names and what they are, those with nothing left out. attributes: of the list, such as ` id="a"`."""
    rows = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts if text)
    return f"<dl{attributes}>{''.join(rows)}</dl>"


def folded(summary: str, markup: str) -> str:
    """HTML that a click shows."""
    return f"<details><summary>{html.escape(summary)}</summary>{markup}</details>"


def _section(section: Section, name: str) -> str:
    parts = [f'<section id="{name}">', f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.table is not None:
        parts.append(table_markup(section.table))
    if section.markup:
        parts.append(section.markup)
    if section.picture is not None:
        parts.append(_picture(section.picture, section.title))
    if section.code:
        code = f'<pre tabindex="0">{html.escape(section.code)}</pre>'
        parts.append(folded("show", code) if section.folded else code)
    return "\n".join([*parts, "</section>"])


def _anchors(sections: Sequence[Section]) -> list[str]:
    """A name a section for links to it, of letters, digits and hyphens; no two the same."""
    words = [re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") for section in sections]
    return [
        f"{word}-{place}" if not word or words.index(word) < place else word
        for place, word in enumerate(words)
    ]


def _contents(sections: Sequence[Section], names: Sequence[str]) -> str:
    links = (
        f'<a href="#{name}">{html.escape(section.title)}</a>'
        for section, name in zip(sections, names, strict=True)
    )
    return f'<nav aria-label="Contents">{" ".join(links)}</nav>'


def _picture(path: Path, title: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            path, f"cannot be read ({error.strerror})", "Draw it again, then write the page."
        ) from error
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'

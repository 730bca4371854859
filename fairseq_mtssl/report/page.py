"""One self-contained HTML page: text, tables, pictures and commands, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairseq_mtssl.errors import ImageError

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th, td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom-width: 2px; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
pre { background: var(--soft); border: 1px solid var(--line); padding: .7rem; }
pre { overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; }
""".strip()


@dataclass(frozen=True)
class Table:
    """header: the columns' names; rows: as many cells each. The first column is text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading and what is under it, in this order: text, table, picture (a PNG file), preformatted code.

    folded: the code is shown on a click only.
    """

    title: str
    text: str = ""
    table: Table | None = None
    picture: Path | None = None
    code: str = ""
    folded: bool = False


def write_page(title: str, sections: Sequence[Section], out: str | Path) -> Path:
    """Write the page, pictures inside; returns its path.

    Raises: ImageError for a picture that cannot be read.
    """
    body = "\n".join(_section(section) for section in sections)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return out


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.table is not None:
        parts.append(_table(section.table))
    if section.picture is not None:
        parts.append(_picture(section.picture, section.title))
    if section.code:
        code = f"<pre>{html.escape(section.code)}</pre>"
        parts.append(f"<details><summary>show</summary>{code}</details>" if section.folded else code)
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
    return f'<div class="scroll"><table>\n{inside}</table></div>'


def _picture(path: Path, title: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            path, f"cannot be read ({error.strerror})", "Draw it again, then write the page."
        ) from error
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'

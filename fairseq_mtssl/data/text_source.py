"""Reads the transcripts of a split from a table, `{split}.wrd` or `{split}.pairs`, and normalises them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairseq_mtssl.data.manifest import pairs_path, read_audio_manifest, read_lines, read_pair_manifest
from fairseq_mtssl.errors import ManifestError

ID_COLUMNS = ("id", "utt")
TEXT_COLUMNS = ("text", "words")


@dataclass(frozen=True)
class SplitText:
    """The transcripts of a split in normal form, one per row of its manifest.

    source: the file from which they were read; changed: how many rows were not in normal form there.
    """

    source: Path
    texts: list[str]
    changed: int


class _CharTable(dict[int, str]):
    """The translation table of `normalise_text`: code point to replacement, filled at first use."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char in "'’‘ʼ":
            kept = "'"
        elif category == "Cf":  # joiners and soft hyphens stand inside words
            kept = ""
        else:
            kept = char if category[0] in "LMN" else " "
        self[code] = kept
        return kept


_CHAR_TABLE = _CharTable()


def normalise_text(text: str) -> str:
    """Return text in normal form: NFKC, upper case, words of letters, digits and apostrophes, single spaces.

    Other punctuation becomes a space; digits are not spelled out. A text without words becomes "".
    """
    # twice each: upper-casing can leave characters to compose, and gives some letters an apostrophe
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper()).upper()
    return " ".join(word for word in text.translate(_CHAR_TABLE).split() if word.strip("'"))


def read_text_table(path: str | Path) -> dict[str, tuple[int, str]]:
    """Read a table of transcripts, tab separated, with the names of its columns on the first line.

    One column is named id or utt, one is named text or words; others are ignored.
    Returns: the line number and the text of each id.
    Raises: ManifestError listing every error: a missing column, a wrong number of columns, a repeated id.
    """
    lines = read_lines(Path(path))
    header = lines[0].split("\t") if lines else []
    columns = [next((name for name in names if name in header), "") for names in (ID_COLUMNS, TEXT_COLUMNS)]
    if not all(columns):
        wanted = f"wanted one of {list(ID_COLUMNS)} and one of {list(TEXT_COLUMNS)}, tab separated"
        raise ManifestError(path, [f"line 1: got columns {header}, {wanted}. Name the columns."])
    id_column, text_column = (header.index(name) for name in columns)
    rows: dict[str, tuple[int, str]] = {}
    errors = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(header):
            errors.append(f"line {number}: got {len(cells)} columns, wanted {len(header)}: {line!r}.")
            continue
        first, _ = rows.setdefault(cells[id_column], (number, cells[text_column]))
        if first != number:
            errors.append(f"line {number}: {cells[id_column]!r} is already on line {first}. Keep one.")
    if errors:
        raise ManifestError(path, errors)
    return rows


def read_split_texts(
    data: str | Path, splits: Sequence[str], table: str | Path | None = None
) -> dict[str, SplitText]:
    """Read the transcripts of each split from the table if given, else `{split}.wrd`, else `{split}.pairs`.

    table: a file for `read_text_table`; its ids are the stems of the manifests' files.
    Raises: ManifestError listing the errors of all splits: no text, a number of rows that differs from the
    manifest's, a row without words, a recording that the table lacks.
    """
    rows = None if table is None else read_text_table(table)
    split_texts: dict[str, SplitText] = {}
    errors: list[str] = []
    for split in splits:
        try:
            source, lines, texts = _raw_texts(Path(data) / f"{split}.tsv", table, rows)
        except ManifestError as error:
            where = "" if Path(error.path) == Path(data) else f"{Path(error.path).name} "
            errors += [f"{where}{error}" for error in error.errors]
            continue
        normal = [normalise_text(text) for text in texts]
        errors += [
            f"{source.name} line {line}: got {text!r}, wanted words. Fill it in, or drop the row everywhere."
            for line, text, normalised in zip(lines, texts, normal, strict=True)
            if not normalised
        ]
        changed = sum(text != normalised for text, normalised in zip(texts, normal, strict=True))
        split_texts[split] = SplitText(source, normal, changed)
    if errors:
        raise ManifestError(data, errors)
    return split_texts


def _raw_texts(
    tsv: Path, table: str | Path | None, rows: dict[str, tuple[int, str]] | None
) -> tuple[Path, Iterable[int], list[str]]:
    """Return the file with a split's transcripts, and the line number and text of each manifest row."""
    manifest = read_audio_manifest(tsv)
    if table is not None and rows is not None:
        return Path(table), *_from_table(tsv, manifest.files, Path(table).name, rows)
    wrd, pairs = tsv.with_suffix(".wrd"), pairs_path(tsv)
    if wrd.is_file():
        texts = read_lines(wrd)
        if len(texts) != len(manifest):
            got = f"{wrd.name} has {len(texts)} rows, {tsv.name} has {len(manifest)}"
            raise ManifestError(tsv.parent, [f"{got}; row i of each is one utterance. Make both again."])
        return wrd, range(1, len(texts) + 1), texts
    if pairs.is_file():
        texts = read_pair_manifest(tsv.parent, tsv.stem).texts
        return pairs, range(3, len(texts) + 3), texts
    hint = "Give --text FILE, a table of id and text"
    raise ManifestError(tsv.parent, [f"{tsv.stem}: neither {wrd.name} nor {pairs.name} exists. {hint}."])


def _from_table(
    tsv: Path, files: Sequence[str], name: str, rows: dict[str, tuple[int, str]]
) -> tuple[list[int], list[str]]:
    """Return the line number and the text of each file, which the table lists by its stem."""
    errors = []
    seen: dict[str, int] = {}
    lines, texts = [], []
    for number, file in enumerate(files, start=2):
        stem = Path(file).stem
        first = seen.setdefault(stem, number)
        if first != number:
            errors.append(f"{tsv.name} line {number}: {stem!r} is also line {first}. Write a .wrd instead.")
        elif stem not in rows:
            errors.append(f"{tsv.name} line {number}: {name} has no id {stem!r}. Add its text.")
        else:
            line, text = rows[stem]
            lines.append(line)
            texts.append(text)
    if errors:
        raise ManifestError(tsv.parent, errors)
    return lines, texts

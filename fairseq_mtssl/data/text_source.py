"""What is said in the recordings of a split: where the text comes from, and its normal form."""

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
    """The words of a split, a text a row of its manifest, in normal form.

    source: the file they were read from; changed: how many rows were not in normal form there.
    """

    source: Path
    texts: list[str]
    changed: int


class _Kept(dict[int, str]):
    """Code point -> what normal form keeps of it; filled as characters are met."""

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


_KEPT = _Kept()


def normalise_text(text: str) -> str:
    """Text in normal form: NFKC, upper case, words of letters, digits and apostrophes, single spaces.

    Any other punctuation becomes a space, digits are not spelled out. "" if the text says nothing.
    """
    # both twice: upper case can need composing, and the apostrophe of some letters appears in it only
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper()).upper()
    return " ".join(word for word in text.translate(_KEPT).split() if word.strip("'"))


def read_text_table(path: str | Path) -> dict[str, tuple[int, str]]:
    """Id -> (line, text) of a table of transcripts, tab separated, its columns named on the first line.

    One column is called id or utt, one text or words; others are passed over.
    Raises: ManifestError with every error: a missing column, short rows, an id given twice.
    """
    lines = read_lines(Path(path))
    header = lines[0].split("\t") if lines else []
    columns = [next((name for name in names if name in header), "") for names in (ID_COLUMNS, TEXT_COLUMNS)]
    if not all(columns):
        wanted = f"wanted one of {list(ID_COLUMNS)} and one of {list(TEXT_COLUMNS)}, tab separated"
        raise ManifestError(path, [f"line 1: got columns {header}, {wanted}. Name the columns."])
    at_id, at_text = (header.index(name) for name in columns)
    found: dict[str, tuple[int, str]] = {}
    errors = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(header):
            errors.append(f"line {number}: got {len(cells)} columns, wanted {len(header)}: {line!r}.")
            continue
        first, _ = found.setdefault(cells[at_id], (number, cells[at_text]))
        if first != number:
            errors.append(f"line {number}: {cells[at_id]!r} is already on line {first}. Keep one of them.")
    if errors:
        raise ManifestError(path, errors)
    return found


def read_split_texts(
    data: str | Path, splits: Sequence[str], table: str | Path | None = None
) -> dict[str, SplitText]:
    """The text of each split: of the table if one is given, else of `{split}.wrd`, else of `{split}.pairs`.

    table: as `read_text_table`; its ids are the stems of the manifests' files.
    Raises: ManifestError with the errors of all splits: no text, another number of rows than the manifest
    has, a row that says nothing, a recording that the table lacks.
    """
    rows = None if table is None else read_text_table(table)
    found: dict[str, SplitText] = {}
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
            for line, text, said in zip(lines, texts, normal, strict=True)
            if not said
        ]
        changed = sum(text != said for text, said in zip(texts, normal, strict=True))
        found[split] = SplitText(source, normal, changed)
    if errors:
        raise ManifestError(data, errors)
    return found


def _raw_texts(
    tsv: Path, table: str | Path | None, rows: dict[str, tuple[int, str]] | None
) -> tuple[Path, Iterable[int], list[str]]:
    """The file that a split's text is in, and the line and text of each row of the manifest."""
    manifest = read_audio_manifest(tsv)
    if table is not None and rows is not None:
        return Path(table), *_from_table(tsv, manifest.files, Path(table).name, rows)
    wrd, pairs = tsv.with_suffix(".wrd"), pairs_path(tsv)
    if wrd.is_file():
        texts = read_lines(wrd)
        if len(texts) != len(manifest):
            got = f"{wrd.name} has {len(texts)} rows, {tsv.name} has {len(manifest)}"
            raise ManifestError(tsv.parent, [f"{got}; row i of each is one utterance. Write both again."])
        return wrd, range(1, len(texts) + 1), texts
    if pairs.is_file():
        texts = read_pair_manifest(tsv.parent, tsv.stem).texts
        return pairs, range(3, len(texts) + 3), texts
    hint = "Give --text FILE, a table of id and text"
    raise ManifestError(tsv.parent, [f"{tsv.stem}: neither {wrd.name} nor {pairs.name} is there. {hint}."])


def _from_table(
    tsv: Path, files: Sequence[str], name: str, rows: dict[str, tuple[int, str]]
) -> tuple[list[int], list[str]]:
    """Line and text of each file by its stem."""
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

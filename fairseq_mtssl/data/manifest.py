"""Reads, checks and writes fairseq's audio manifests and this package's pair manifests.

A data folder holds, for each split,

- `{split}.tsv` in fairseq's format: line 1 is the audio root, then follows `relative/path<TAB>samples`;
- `{split}.pairs`, row-aligned with it: line 1 is the image root, line 2 has the column names
  `caption_id image image_id label speaker text` (tab separated), then follows one row per caption.

A relative root is relative to the folder of the file that names it, so that a corpus can be moved.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_mtssl.errors import ConfigError, ImageError, ManifestError
from fairseq_mtssl.files import write_text

PAIR_COLUMNS = ("caption_id", "image", "image_id", "label", "speaker", "text")


@dataclass(frozen=True, eq=False)
class AudioManifest:
    """The audio files of one split.

    path: the .tsv; root: the absolute audio root; sizes: (N,) int64, samples of each file;
    files: paths relative to the root, or `archive.zip:offset:bytes`.
    """

    path: Path
    root: Path
    files: list[str]
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: np.ndarray) -> AudioManifest:
        """Return a manifest of these rows, (N,) int, in this order."""
        return AudioManifest(self.path, self.root, [self.files[row] for row in rows], self.sizes[rows])

    def audio_path(self, index: int) -> str:
        """Return the full path of row `index`, for `read_audio`."""
        return os.path.join(self.root, self.files[index])


@dataclass(frozen=True, eq=False)
class PairManifest:
    """Pairs of a spoken caption and its image, one per row.

    All lists have one entry per caption. images: paths relative to image_root, or "" if only region features
    exist. image_ids: the key of the image, equal for captions of one image. labels: a class, such that all
    images of a label can count as relevant, or "". Missing speakers and texts are "".
    """

    audio: AudioManifest
    image_root: Path
    images: list[str]
    image_ids: list[str]
    caption_ids: list[str]
    labels: list[str]
    speakers: list[str]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.caption_ids)

    @cached_property
    def first_rows(self) -> dict[str, int]:
        """The first row of each image id, in order of first appearance."""
        rows: dict[str, int] = {}
        for row, image_id in enumerate(self.image_ids):
            rows.setdefault(image_id, row)
        return rows

    @cached_property
    def unique_image_ids(self) -> list[str]:
        """Image ids in order of first appearance."""
        return list(self.first_rows)

    def image_path(self, image_id: str) -> Path:
        """Return the file of an image.

        Raises: ImageError for an id that the manifest lacks or that has no file.
        """
        pairs = pairs_path(self.audio.path)
        if image_id not in self.first_rows:
            hint = "Take one from the manifest's image_id column."
            raise ImageError(pairs, f"no image id {image_id!r}", hint)
        image = self.images[self.first_rows[image_id]]
        if not image:
            raise ImageError(
                pairs,
                f"image id {image_id!r} names no image file",
                "Use an encoder of region features, or make the manifest again with the image folder.",
            )
        return self.image_root / image

    def image_label(self, image_id: str) -> str:
        """Return the label of an image, "" if it has none."""
        return self.labels[self.first_rows[image_id]]


@dataclass(frozen=True)
class PairRow:
    """One caption to be written: `file` is relative to the audio root, `samples` is at the file's rate."""

    file: str
    samples: int
    caption_id: str
    image: str
    image_id: str
    label: str = ""
    speaker: str = ""
    text: str = ""


def pairs_path(tsv: Path) -> Path:
    """Return the path of the .pairs file beside a .tsv."""
    return tsv.with_suffix(".pairs")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file without line ends; empty lines at the end are dropped.

    Raises: ManifestError if the file is absent or not UTF-8.
    """
    try:
        # utf-8-sig, since spreadsheets often write a byte order mark
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ManifestError(path, [f"cannot be read: {error.strerror}. Check the path."]) from error
    except UnicodeDecodeError as error:
        raise ManifestError(path, [f"not UTF-8 at byte {error.start}. Convert the file to UTF-8."]) from error
    while lines and not lines[-1].strip(" "):
        lines.pop()
    return lines


def read_audio_manifest(path: str | Path) -> AudioManifest:
    """Read a fairseq audio manifest (`{split}.tsv`).

    Raises: ManifestError listing every error: absent or empty file, wrong number of columns, a size that is
    not a positive integer.
    """
    path = Path(path)
    manifest, errors = _parse_audio(path, read_lines(path))
    if errors:
        raise ManifestError(path, errors)
    return manifest


def _parse_audio(path: Path, lines: list[str]) -> tuple[AudioManifest, list[str]]:
    """Return the manifest and its errors; a manifest with errors is not to be used."""
    errors: list[str] = []
    if not lines or "\t" in lines[0]:
        errors.append("line 1: wanted the audio root alone. Write the folder of the audio on the first line.")
    if len(lines) < 2:
        errors.append("no rows: the manifest is empty. Make it again from a folder that holds audio.")
    files: list[str] = []
    sizes: list[int] = []
    for number, line in enumerate(lines[1:], start=2):
        file, _, size = line.partition("\t")
        if not file or not size or "\t" in size:
            errors.append(f"line {number}: got {line!r}, wanted path<TAB>samples.")
        elif not (size.isascii() and size.isdigit() and int(size) > 0):
            errors.append(f"line {number}: got size {size!r}, wanted samples, at least 1. Drop the row.")
        else:
            files.append(file)
            sizes.append(int(size))
    root = _resolve_root(path, lines[0]) if lines else path.parent
    return AudioManifest(path, root, files, np.array(sizes, dtype=np.int64)), errors


def _resolve_root(file: Path, root: str) -> Path:
    return (file.parent / root.strip()).absolute()


def read_pair_manifest(data_dir: str | Path, split: str) -> PairManifest:
    """Read `{split}.tsv` and `{split}.pairs` of a data folder.

    Raises: ManifestError listing every error of both files: absent or empty file, wrong number of columns,
    sizes that are not positive integers, an empty or repeated caption id, an image id with two images or two
    labels, numbers of rows that differ.
    """
    tsv = Path(data_dir) / f"{split}.tsv"
    pairs = pairs_path(tsv)
    missing = [f"{file.name} is missing" for file in (tsv, pairs) if not file.is_file()]
    if missing:
        found = sorted(file.stem for file in Path(data_dir).glob("*.pairs")) or "none"
        missing.append(f"splits found: {found}. Name one, or make the folder: mtssl prepare")
        raise ManifestError(data_dir, missing)
    audio_lines = read_lines(tsv)
    audio, audio_errors = _parse_audio(tsv, audio_lines)
    lines = read_lines(pairs)
    columns, pair_errors = _parse_pairs(lines)
    errors = [f"{tsv.name} {error}" for error in audio_errors]
    errors += [f"{pairs.name} {error}" for error in pair_errors]
    rows = (max(len(audio_lines) - 1, 0), max(len(lines) - 2, 0))
    if rows[0] != rows[1]:
        errors.append(
            f"{tsv.name} has {rows[0]} rows, {pairs.name} has {rows[1]}; row i of each is one caption. "
            "Write both again with one script."
        )
    if errors:
        raise ManifestError(data_dir, errors)
    caption_ids, images, image_ids, labels, speakers, texts = columns
    image_root = _resolve_root(pairs, lines[0])
    return PairManifest(audio, image_root, images, image_ids, caption_ids, labels, speakers, texts)


def utterance_ids(data_dir: str | Path, split: str) -> list[str]:
    """Return the names that phones.tsv uses for a split's rows: caption ids, or file stems without .pairs."""
    tsv = Path(data_dir) / f"{split}.tsv"
    if pairs_path(tsv).is_file():
        return read_pair_manifest(data_dir, split).caption_ids
    return [Path(file).stem for file in read_audio_manifest(tsv).files]


def find_splits(data: str | Path, names: str | None) -> list[str]:
    """The names given, or every `{name}.tsv` of a folder that is a manifest, train first.

    Raises: ConfigError if there is none.
    """
    if names is not None:
        found = [name.strip() for name in names.split(",") if name.strip()]
        if not found or len(set(found)) < len(found):
            raise ConfigError("--splits", [f"got {names!r}, wanted names such as train,valid, each once"])
        return found
    if not Path(data).is_dir():
        raise ConfigError("--data", [f"{data} is no folder; give the one that holds train.tsv"])
    paths = [path for path in Path(data).glob("*.tsv") if "." not in path.stem and _is_manifest(path)]
    if not paths:
        raise ConfigError("--data", [f"{data} holds no manifest; make it with mtssl prepare"])
    return sorted((path.stem for path in paths), key=lambda name: (name != "train", name))


def _is_manifest(path: Path) -> bool:
    """The first line of a manifest is a folder alone; that of a table has tabs."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "\t" not in file.readline()


def _parse_pairs(lines: list[str]) -> tuple[list[list[str]], list[str]]:
    """Return the six columns of a .pairs file and its errors."""
    errors: list[str] = []
    if not lines or "\t" in lines[0]:
        errors.append("line 1: wanted the image root alone. Write the image folder on the first line.")
    header = tuple(lines[1].split("\t")) if len(lines) > 1 else ()
    if header != PAIR_COLUMNS:
        errors.append(f"line 2: got columns {list(header)}, wanted {list(PAIR_COLUMNS)}, tab separated.")
    if len(lines) < 3:
        errors.append("no rows: the manifest is empty. Make it again from pairs of speech and images.")
    width = len(PAIR_COLUMNS)
    for number, line in enumerate(lines[2:], start=3):
        tabs = line.count("\t")
        if tabs != width - 1:
            errors.append(f"line {number}: got {tabs + 1} columns, wanted {width}: {line!r}.")
    if errors:  # the following lines need complete rows
        return [[] for _ in PAIR_COLUMNS], errors
    cells = "\t".join(lines[2:]).split("\t")  # one split of all rows is six times faster than one per row
    columns = [cells[column::width] for column in range(width)]
    return columns, identity_errors(columns[0], columns[1], columns[2], columns[3], first_line=3)


def identity_errors(
    caption_ids: Sequence[str],
    images: Sequence[str],
    image_ids: Sequence[str],
    labels: Sequence[str],
    *,
    first_line: int,
) -> list[str]:
    """List the errors in a file's ids: empty or repeated caption ids, image ids with two images or labels.

    first_line: the line number of row 0, for the messages.
    """
    unique = all(caption_ids) and all(image_ids) and len(set(caption_ids)) == len(caption_ids)
    if unique and len(set(zip(image_ids, images, labels, strict=True))) == len(set(image_ids)):
        return []  # sets show that nothing is wrong much faster than the loop below
    errors: list[str] = []
    caption_line: dict[str, int] = {}
    image_line: dict[str, int] = {}
    for row, (caption_id, image_id) in enumerate(zip(caption_ids, image_ids, strict=True)):
        line = row + first_line
        if not caption_id or not image_id:
            which = "image" if caption_id else "caption"
            errors.append(f"line {line}: empty {which} id. Give every row both ids.")
        if caption_line.setdefault(caption_id, line) != line:
            errors.append(
                f"line {line}: caption id {caption_id!r} is already on line {caption_line[caption_id]}. "
                "Give every caption its own id."
            )
        first = image_line.setdefault(image_id, line) - first_line
        for what, values in (("image", images), ("label", labels)):
            if values[first] != values[row]:
                errors.append(
                    f"line {line}: image id {image_id!r} has {what} {values[row]!r}, but {values[first]!r} "
                    f"on line {first + first_line}. Give each image one id and one label."
                )
    return errors


def write_audio_manifest(path: Path, root: Path | str, files: Sequence[str], sizes: Sequence[int]) -> None:
    """Write a fairseq audio manifest (`{split}.tsv`), whole or not at all.

    root: absolute, or relative to the folder of the manifest. sizes: samples of each file.
    Raises: ManifestError for paths with tabs or line breaks, which the format cannot hold.
    """
    wrong = [file for file in files if any(mark in file for mark in "\t\n\r")]
    if wrong:
        raise ManifestError(path, [f"tab or line break in {file!r}. Rename the file." for file in wrong])
    write_text(path, "\n".join(_audio_lines(root, files, sizes)) + "\n")


def _audio_lines(root: Path | str, files: Sequence[str], sizes: Sequence[int]) -> list[str]:
    return [str(root), *(f"{file}\t{size}" for file, size in zip(files, sizes, strict=True))]


def write_pair_manifest(
    data_dir: str | Path,
    split: str,
    rows: Sequence[PairRow],
    *,
    audio_root: str | Path = "audio",
    image_root: str | Path = "images",
) -> None:
    """Write `{split}.tsv` and `{split}.pairs`, row-aligned and each atomically.

    audio_root, image_root: absolute, or relative to data_dir so that the folder can be moved.
    Raises: ManifestError listing tabs and line breaks in the cells, and every error that reading back finds.
    """
    data_dir = Path(data_dir)
    tsv = _audio_lines(audio_root, [row.file for row in rows], [row.samples for row in rows])
    table = [[row.caption_id, row.image, row.image_id, row.label, row.speaker, row.text] for row in rows]

    pairs = [str(image_root), "\t".join(PAIR_COLUMNS)] + ["\t".join(row) for row in table]
    errors = [
        f"row {number}: tab or line break in {line!r}. Replace it by a space."
        for number, line in enumerate((row.file + "".join(cells) for row, cells in zip(rows, table)), start=1)
        if any(mark in line for mark in "\t\n\r")
    ]
    if not errors:
        errors = _parse_audio(data_dir / f"{split}.tsv", tsv)[1] + _parse_pairs(pairs)[1]
    if errors:
        raise ManifestError(data_dir / f"{split}.pairs", errors)
    data_dir.mkdir(parents=True, exist_ok=True)
    write_text(data_dir / f"{split}.tsv", "\n".join(tsv) + "\n")
    write_text(data_dir / f"{split}.pairs", "\n".join(pairs) + "\n")

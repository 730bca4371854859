"""Your own pairs of speech and images, which a table lists.

    mtssl prepare pairs --table pairs.tsv --out data

The table is separated by tabs and has a header. Required columns are `audio`, `image`, `image_id` and `split`
(train, valid or test). Optional columns are `label` (with `--relevance label`, every image that has the label
of the caption is right), `speaker`, `text` and `caption_id` (by default the name of the audio file without
its suffix). Paths are relative to the table.

Every file is read once. All errors are reported together, with their lines: missing columns, audio or images
that are missing or cannot be read, audio at another rate than 16 kHz (`--resample` writes copies at 16 kHz to
OUT/audio), repeated caption ids, an image id with two images or labels, an image with two ids, and an image
or a recording that is in two splits and would therefore leak into the test.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_audio, read_native, write_wav
from fairseq_mtssl.data.images import read_image
from fairseq_mtssl.data.manifest import PairRow, identity_errors, read_lines, write_pair_manifest
from fairseq_mtssl.errors import AudioError, ImageError, ManifestError
from fairseq_mtssl.files import sha256_of

SPLITS = ("train", "valid", "test")
REQUIRED = ("audio", "image", "image_id", "split")
OPTIONAL = ("label", "speaker", "text", "caption_id")
FIRST_LINE = 2  # of the rows, which follow the header

Probes = dict[str, "tuple[int, int] | str"]  # samples and rate in Hz, or the error


@dataclass(frozen=True)
class TableRow:
    """One row of the table; the paths audio and image are absolute."""

    line: int
    audio: str
    image: str
    image_id: str
    split: str
    label: str
    speaker: str
    text: str
    caption_id: str


def read_table(path: Path) -> tuple[list[TableRow], list[str]]:
    """Read a table. Returns: its complete rows, and the errors of its form and of its ids.

    Raises: ManifestError if the table cannot be read, is empty or lacks a column.
    """
    lines = read_lines(path)
    columns = [name.strip() for name in lines[0].split("\t")] if lines else []
    missing = [name for name in REQUIRED if name not in columns]
    errors = [f"line 1: no column {name!r}" for name in missing]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    errors += [f"line 1: two columns {name!r}" for name in repeated]
    if missing:
        errors.append(f"line 1: got {columns}, wanted {list(REQUIRED)}, tab separated.")
    if len(lines) < FIRST_LINE:
        errors.append("no rows: the table is empty. Give one row a caption.")
    if errors:
        raise ManifestError(path, errors)
    ignored = [name for name in columns if name not in REQUIRED + OPTIONAL]
    if ignored:
        print(
            f"ignored columns: {', '.join(ignored)}; known: {', '.join(REQUIRED + OPTIONAL)}", file=sys.stderr
        )
    rows: list[TableRow] = []
    for line, text in enumerate(lines[1:], start=FIRST_LINE):
        cells = [cell.strip() for cell in text.split("\t")]
        if len(cells) != len(columns):
            errors.append(f"line {line}: got {len(cells)} cells, wanted {len(columns)}: {text!r}.")
            continue
        row = dict(zip(columns, cells, strict=True))
        empty = [name for name in REQUIRED if not row[name]]
        if empty:
            errors.append(f"line {line}: empty {', '.join(empty)}. Fill every required cell.")
        elif row["split"] not in SPLITS:
            errors.append(f"line {line}: got split {row['split']!r}, wanted one of {list(SPLITS)}.")
        else:
            rows.append(_table_row(line, row, path.parent.absolute()))
    if not errors:  # line numbers can be told from rows only if no row is missing
        errors = _id_errors(rows, named="caption_id" in columns)
    return rows, errors


def _table_row(line: int, row: dict[str, str], folder: Path) -> TableRow:
    audio, image = (os.path.normpath(folder / row[name]) for name in ("audio", "image"))
    return TableRow(
        line=line,
        audio=audio,
        image=image,
        image_id=row["image_id"],
        split=row["split"],
        label=row.get("label", ""),
        speaker=row.get("speaker", ""),
        text=row.get("text", ""),
        caption_id=row.get("caption_id", Path(audio).stem),
    )


def _id_errors(rows: list[TableRow], *, named: bool) -> list[str]:
    """Errors of ids, and leaks between splits. named: whether the table has a column of caption ids."""
    captions = [row.caption_id for row in rows]
    errors = identity_errors(
        captions,
        [row.image for row in rows],
        [row.image_id for row in rows],
        [row.label for row in rows],
        first_line=FIRST_LINE,
    )
    if not named and len(set(captions)) < len(captions):
        errors.append("caption ids are the audio's file names here; these repeat. Add a column caption_id.")
    images: dict[str, TableRow] = {}
    audios: dict[str, TableRow] = {}
    ids: dict[str, TableRow] = {}
    for row in rows:
        first = images.setdefault(row.image, row)
        if first.image_id != row.image_id:
            errors.append(
                f"line {row.line}: image {row.image} has id {row.image_id!r}, but {first.image_id!r} on line "
                f"{first.line}. Give each image one id."
            )
        leaks = (("image id", row.image_id, ids), ("audio", row.audio, audios))
        for what, value, earlier in leaks:
            first = earlier.setdefault(value, row)
            if first.split != row.split:
                errors.append(
                    f"line {row.line}: {what} {value!r} is in split {row.split}, but in {first.split} on "
                    f"line {first.line}. Keep all its captions in one split."
                )
    return errors


def probe_audio(path: str) -> tuple[int, int] | str:
    """Samples and rate in Hz of an audio file, which is read to its end, or the error."""
    try:
        wav, rate_hz = read_native(path)
    except AudioError as error:
        return str(error)
    return len(wav), rate_hz


def probe_image(path: str) -> str:
    """The error of an image that cannot be read, or ""."""
    try:
        read_image(path, 8)
    except ImageError as error:
        return str(error)
    return ""


def file_errors(rows: list[TableRow], probes: Probes, images: dict[str, str], resample: bool) -> list[str]:
    """Errors of the files that the rows name; each is reported once, for the first row that has it."""
    errors: list[str] = []
    told: set[str] = set()
    for row in rows:
        probe = probes[row.audio]
        wrong = [probe] if isinstance(probe, str) else []
        if not isinstance(probe, str) and probe[1] != SAMPLE_RATE_HZ and not resample:
            got = f"sampled at {probe[1]} Hz, wanted {SAMPLE_RATE_HZ} Hz"
            wrong.append(f"{row.audio}: {got}. Give --resample to write copies at {SAMPLE_RATE_HZ} Hz.")
        wrong += [images[row.image]] if images[row.image] else []
        errors += [f"line {row.line}: {error}" for error in wrong if error not in told]
        told.update(wrong)
    return errors


def resample_copies(rows: list[TableRow], probes: Probes, out: Path) -> dict[str, str]:
    """Write 16 kHz copies of audio at other rates. Returns: path of the original -> path of its copy."""
    copies: dict[str, str] = {}
    other = [row for row in rows if probes[row.audio][1] != SAMPLE_RATE_HZ]
    for row in tqdm(other, "resampling", unit="file", mininterval=1, disable=len(other) < 200):
        if row.audio not in copies:
            name = re.sub(r"[^\w.-]", "_", Path(row.audio).stem)
            copies[row.audio] = str(out.absolute() / "audio" / f"{row.line:06d}_{name}.wav")
            write_wav(copies[row.audio], read_audio(row.audio, resample=True))
    return copies


def write_split(
    out: Path, split: str, rows: list[TableRow], sizes: dict[str, int], files: dict[str, str]
) -> None:
    """Write one split. files: the file to be read for each audio of the table. sizes: its samples."""
    audio_root = os.path.commonpath([os.path.dirname(files[row.audio]) for row in rows])
    image_root = os.path.commonpath([os.path.dirname(row.image) for row in rows])
    pairs = [
        PairRow(
            file=os.path.relpath(files[row.audio], audio_root),
            samples=sizes[row.audio],
            caption_id=row.caption_id,
            image=os.path.relpath(row.image, image_root),
            image_id=row.image_id,
            label=row.label,
            speaker=row.speaker,
            text=row.text,
        )
        for row in rows
    ]
    write_pair_manifest(out, split, pairs, audio_root=audio_root, image_root=image_root)
    print(f"{split}: {len(rows)} captions, {len({row.image_id for row in rows})} images")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the corpus."""
    parser.add_argument("--table", type=Path, required=True, help="tab-separated table with a header")
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument("--resample", action="store_true", help="write 16 kHz copies of audio at other rates")


def prepare(args: argparse.Namespace) -> None:
    """Check a table and make its data folder. Raises: ManifestError with every error."""
    rows, errors = read_table(args.table)
    audios = list(dict.fromkeys(row.audio for row in rows))
    probes: Probes = dict(zip(audios, data_folder.in_threads(probe_audio, audios, "reading audio")))
    images = list(dict.fromkeys(row.image for row in rows))
    image_errors = dict(zip(images, data_folder.in_threads(probe_image, images, "reading images")))
    errors += file_errors(rows, probes, image_errors, args.resample)
    if errors:
        raise ManifestError(args.table, errors)
    data_folder.begin(args.out)
    copies = resample_copies(rows, probes, args.out)
    files = {audio: copies.get(audio, audio) for audio in probes}
    sizes = {audio: int(probe[0]) for audio, probe in probes.items()}
    sizes.update({audio: len(read_audio(copy)) for audio, copy in copies.items()})
    made = [os.path.relpath(copy, args.out.absolute()) for copy in copies.values()]
    for split in SPLITS:
        of_split = [row for row in rows if row.split == split]
        if of_split:
            write_split(args.out, split, of_split, sizes, files)
            made += [f"{split}.tsv", f"{split}.pairs"]
        else:
            print(f"{split}: no rows, no files written")
    request = {"script": "pairs", "table_sha256": sha256_of(args.table), "resample": args.resample}
    data_folder.finish(args.out, request, made, sample_rate_hz=SAMPLE_RATE_HZ, resampled=len(copies))
    if copies:
        print(f"{len(copies)} files resampled")


register_corpus(Corpus("pairs", __doc__, add_arguments, prepare))

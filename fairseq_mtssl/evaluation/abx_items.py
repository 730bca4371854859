"""Reads ABX items, the segments of speech to compare, and finds the frames that they cover.

An item file has a header line, which is skipped, and then `file onset offset phone previous next speaker` on
each line, separated by white space, with times in seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_mtssl.errors import ManifestError

COLUMNS = "file, onset s, offset s, phone, previous, next, speaker"
SLICINGS = ("exact", "librilight")


@dataclass(frozen=True, eq=False)
class Items:
    """The tokens of an item file, one per line.

    files: distinct file names; file: (N,) index of each token's file in `files`. onset_s, offset_s: (N,)
    float64. phone, context, speaker: (N,) int64; equal numbers stand for equal names. A context is the pair
    of neighbouring phones.
    """

    path: Path
    files: list[str]
    file: np.ndarray
    onset_s: np.ndarray
    offset_s: np.ndarray
    phone: np.ndarray
    context: np.ndarray
    speaker: np.ndarray

    def __len__(self) -> int:
        return len(self.file)


@dataclass(frozen=True, eq=False)
class Spans:
    """The frames of tokens: start and exclusive end, (N,) int64; tokens with end ≤ start have no frames."""

    start: np.ndarray
    end: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: which tokens have frames."""
        return self.end > self.start


def read_items(path: str | Path) -> Items:
    """Read an item file.

    Raises: ManifestError listing every error: absent or empty file, a wrong number of columns, times that are
    not numbers or end before they start, a first line that is an item and would be skipped.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except OSError as error:
        raise ManifestError(path, [f"cannot be read: {error.strerror}. Give an item file."]) from error
    except UnicodeDecodeError as error:
        raise ManifestError(path, [f"not UTF-8 at byte {error.start}. Convert the file to UTF-8."]) from error
    errors: list[str] = []
    if not _line_error(lines[0].split()):
        errors.append("line 1 is an item, but the first line is skipped. Put a header above it.")
    rows: list[list[str]] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split()
        wrong = _line_error(cells)
        if wrong:
            errors.append(f"line {number}: got {line!r}, {wrong}.")
        else:
            rows.append(cells)
    if not rows and not errors:
        errors.append(f"holds no items. Write a header, then {COLUMNS} on each line.")
    if errors:
        raise ManifestError(path, errors)
    file, onset, offset, phone, before, after, speaker = zip(*rows)
    files, file_index = _numbers(file)
    return Items(
        path=path,
        files=files,
        file=file_index,
        onset_s=np.array(onset, dtype=np.float64),
        offset_s=np.array(offset, dtype=np.float64),
        phone=_numbers(phone)[1],
        context=_numbers(tuple(zip(before, after)))[1],
        speaker=_numbers(speaker)[1],
    )


def _line_error(cells: list[str]) -> str:
    """Return the error in a line, "" if there is none."""
    if len(cells) != 7:
        return f"{len(cells)} columns, wanted {COLUMNS}"
    try:
        onset, offset = float(cells[1]), float(cells[2])
    except ValueError:
        return f"wanted {COLUMNS}"
    return "" if 0 <= onset <= offset < math.inf else "wanted 0 ≤ onset ≤ offset"


def _numbers(names: tuple) -> tuple[list, np.ndarray]:
    """Return the distinct names in order of first appearance, and the index of each name among them."""
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return list(index), np.array([index[name] for name in names], dtype=np.int64)


def rows_of_files(items: Items, utterances: Sequence[str], table: str) -> np.ndarray:
    """(F,) the row of each file of the items among the utterances of a split.

    utterances: the names of the rows. table: what lists them, for errors.
    Raises: ManifestError naming every file that the split lacks or has twice.
    """
    rows = {name: row for row, name in enumerate(utterances)}
    times = Counter(utterances)
    counts = np.bincount(items.file, minlength=len(items.files))
    hint = "Give the split these items are of: --split."
    errors = [
        f"{name}: {count} items, but {table} has {times[name] or 'no'} utterances so called. {hint}"
        for name, count in zip(items.files, counts.tolist())
        if times[name] != 1
    ]
    if errors:
        raise ManifestError(items.path, errors)
    return np.array([rows[name] for name in items.files], dtype=np.int64)


def slice_items(items: Items, rate_hz: float, frames: np.ndarray, slicing: str) -> Spans:
    """Return the frames that each token covers.

    frames: (N,) number of frames of each token's utterance. slicing: "exact" takes every frame whose centre
    is within the token; "librilight" ends one frame earlier, as in the published numbers of ZeroSpeech 2021.
    """
    start = np.maximum(0, np.ceil(rate_hz * items.onset_s - 0.5)).astype(np.int64)
    end = np.floor(rate_hz * items.offset_s - 0.5).astype(np.int64) + (slicing == "exact")
    return Spans(start, np.minimum(frames, end))

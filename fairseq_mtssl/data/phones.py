"""Reads the phones of utterances, for probes: one per frame, or the sequence of the phones spoken.

A data folder holds three kinds of files, which `mtssl prepare aligned_phones` writes:

- `dict.phn.txt` has `<phone> <count>` on each line. A phone's index is its position in this file, from 0.
- `{split}.phn` has one utterance per line: the phone at the centre of each 20 ms, `<pad>` where there is no
  phone. The line of an utterance without alignment is empty.
- `{split}.phones.tsv` has the columns utterance, start s, end s, phone, word.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_mtssl.data.dictionary import read_symbols
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest, read_lines
from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.files import write_text
from fairseq_mtssl.frames import SAMPLE_RATE_HZ, UNLABELLED, frame_count

NO_PHONE = "<pad>"
PHONE_COLUMNS = ("caption_id", "start_s", "end_s", "phone", "word")
LABEL_HOP_SAMPLES, LABEL_WINDOW_SAMPLES = 320, 400  # those of wav2vec 2.0's convolutions
_REMAKE_HINT = "Make it again: mtssl prepare aligned_phones."


@dataclass(frozen=True, eq=False)
class Segments:
    """The phones of one utterance in the order of time: (P,) start and end in seconds, and P names."""

    starts_s: np.ndarray
    ends_s: np.ndarray
    phones: list[str]

    def at(self, times_s: np.ndarray) -> list[str | None]:
        """Return the phone at each time, None where there is none."""
        indices = np.searchsorted(self.starts_s, times_s, side="right") - 1
        inside = (indices >= 0) & (times_s < self.ends_s[np.maximum(indices, 0)])
        return [self.phones[index] if ok else None for index, ok in zip(indices.tolist(), inside.tolist())]


@dataclass(frozen=True)
class PhoneRow:
    """A line of a table of phones; others: the cells after the phone, the word first."""

    line: int
    utterance: str
    start_s: float
    end_s: float
    phone: str
    others: tuple[str, ...]


def read_phone_rows(path: str | Path) -> tuple[list[PhoneRow], list[str]]:
    """Read a table of phones, such as `{split}.phones.tsv`. Its first line may be a header.

    Returns: the rows, and an error for each line that is none. Raises: ManifestError if it cannot be read.
    """
    rows, errors = [], []
    for number, line in enumerate(read_lines(Path(path)), start=1):
        utterance, *cells = line.split("\t")
        try:
            start_s, end_s, phone = float(cells[0]), float(cells[1]), cells[2]
            if not utterance:
                raise ValueError
        except (ValueError, IndexError):
            if number > 1:
                wanted = "wanted utterance, start s, end s, phone, word, tab separated"
                errors.append(f"line {number}: got {line!r}, {wanted}.")
            continue
        rows.append(PhoneRow(number, utterance, start_s, end_s, phone, tuple(cells[3:])))
    return rows, errors


def write_phone_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write `{split}.phones.tsv`. rows: utterance, start s, end s, phone and word of each, as text."""
    write_text(path, "".join("\t".join(row) + "\n" for row in (PHONE_COLUMNS, *rows)))


def read_phone_segments(path: str | Path) -> dict[str, Segments]:
    """Read `{split}.phones.tsv`: the phones of each utterance, with their times.

    Raises: ManifestError listing every error: a malformed line, times that end before they start, phones of
    one utterance that overlap, a file without phones.
    """
    rows, errors = read_phone_rows(path)
    spoken: dict[str, list[PhoneRow]] = {}
    for row in rows:
        if not 0 <= row.start_s <= row.end_s < math.inf:
            got = f"from {row.start_s} s to {row.end_s} s"
            errors.append(f"line {row.line}: {got}, wanted 0 ≤ start ≤ end. Align again.")
        spoken.setdefault(row.utterance, []).append(row)
    if not rows and not errors:
        errors.append("holds no phones. Write the header, then one line per phone.")
    for utterance, phones in spoken.items():
        phones.sort(key=lambda row: (row.start_s, row.end_s))
        errors += [
            f"line {after.line}: {utterance} overlaps line {before.line}. Align again."
            for before, after in zip(phones, phones[1:])
            if after.start_s < before.end_s - 1e-6
        ]
    if errors:
        raise ManifestError(path, errors)
    return {
        utterance: Segments(
            np.array([row.start_s for row in phones]),
            np.array([row.end_s for row in phones]),
            [row.phone for row in phones],
        )
        for utterance, phones in spoken.items()
    }


def read_phone_names(path: str | Path) -> list[str]:
    """Read the phones of `dict.phn.txt`. Raises: ManifestError as `read_symbols` does."""
    return read_symbols(path, "phone", _REMAKE_HINT)


def read_phone_frames(path: str | Path, manifest: AudioManifest, names: Sequence[str]) -> list[np.ndarray]:
    """Read `{split}.phn`: per utterance (T,) int64, UNLABELLED where there is no phone, (0,) if not aligned.

    Raises: ManifestError listing every error: a number of lines that differs from the number of utterances,
    a number of labels that differs by more than one from the number of frames, an unknown phone.
    """
    lines = read_lines(Path(path))
    errors = []
    if len(lines) != len(manifest):
        got = f"{len(lines)} lines for the {len(manifest)} utterances of {manifest.path}"
        errors.append(f"{got}; line i of each is one utterance. {_REMAKE_HINT}")
    index_of = {**{name: index for index, name in enumerate(names)}, NO_PHONE: UNLABELLED}
    utterances: list[np.ndarray] = []
    for number, (line, samples) in enumerate(zip(lines, manifest.sizes.tolist(), strict=False), start=1):
        phones = line.split()
        wanted = frame_count(samples, LABEL_HOP_SAMPLES, LABEL_WINDOW_SAMPLES)
        if phones and abs(len(phones) - wanted) > 1:
            rate = SAMPLE_RATE_HZ // LABEL_HOP_SAMPLES
            got = f"{len(phones)} phones for {wanted} frames ({samples} samples at {rate} Hz)"
            errors.append(f"line {number}: {got}; they may differ by 1. {_REMAKE_HINT}")
        unknown = sorted(set(phones) - set(index_of))
        if unknown:
            errors.append(f"line {number}: {_unknown(unknown)}")
        utterances.append(np.array([index_of.get(phone, UNLABELLED) for phone in phones], dtype=np.int64))
    if errors:
        raise ManifestError(path, errors)
    return utterances


def read_phone_splits(data: str | Path, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """What `read_phone_frames` gives of train, of valid and, if it has phones, of test.

    Raises: ManifestError with every error of all splits; a split without any phone is one.
    """
    folder = Path(data)
    wanted = ["train", "valid", *(["test"] if (folder / "test.phn").is_file() else [])]
    splits, errors = {}, []
    for name in wanted:
        try:
            manifest = read_audio_manifest(folder / f"{name}.tsv")
            phones = read_phone_frames(folder / f"{name}.phn", manifest, names)
        except ManifestError as error:
            errors += [f"{error.path}: {each}" for each in error.errors]
            continue
        if not any((each != UNLABELLED).any() for each in phones):
            errors.append(f"{folder / name}.phn: no frame has a phone. Align this split.")
        splits[name] = phones
    if errors:
        raise ManifestError(folder, errors)
    return splits


def read_phone_sequences(
    path: str | Path, utterances: Sequence[str], names: Sequence[str], left_out: Collection[str] = ()
) -> list[np.ndarray]:
    """Read `{split}.phones.tsv`: per utterance (L,) int64 in the order of time, (0,) if it has no phones.

    utterances: the names of the rows of the manifest.
    left_out: phones that are skipped, such as silences, in lower case; the case of the file does not matter.
    Raises: ManifestError listing every error: a malformed line, an unknown phone, an utterance that the
    manifest has twice, or a file with none of the manifest's utterances.
    """
    index_of = {name: index for index, name in enumerate(names)}
    spoken: dict[str, list[tuple[float, int]]] = {name: [] for name in utterances}
    rows, errors = read_phone_rows(path)
    rows = [row for row in rows if row.utterance in spoken]
    for row in rows:
        if row.phone.lower() in left_out:
            continue
        if row.phone not in index_of:
            errors.append(f"line {row.line}: {_unknown([row.phone])}")
        else:
            spoken[row.utterance].append((row.start_s, index_of[row.phone]))
    if len(spoken) < len(utterances):
        twice = sorted({name for name in utterances if utterances.count(name) > 1})[:5]
        errors.append(f"utterances of the manifest share a name: {', '.join(twice)}. {_REMAKE_HINT}")
    if not rows and not errors:
        errors.append(f"has no phone of the manifest's utterances, such as {utterances[0]!r}. {_REMAKE_HINT}")
    if errors:
        raise ManifestError(path, errors)
    return [np.array([phone for _, phone in sorted(spoken[name])], dtype=np.int64) for name in utterances]


def _unknown(phones: Sequence[str]) -> str:
    listed = ", ".join(map(repr, phones))
    return f"{listed} not in the phone dictionary. Make all splits together."


def phones_of_frames(phones: np.ndarray, frames: int, hop_samples: int) -> np.ndarray:
    """Return the phone at the centre of each frame, for frames of another rate: (frames,) int64.

    phones: (T,) one phone per 20 ms; frames beyond the last of them are UNLABELLED.
    frames: number of frames; hop_samples: samples between two of them.
    """
    # frame i has its centre at (i + 0.5) · hop_samples
    centres = (2 * np.arange(frames) + 1) * hop_samples // (2 * LABEL_HOP_SAMPLES)
    frame_phones = np.full(frames, UNLABELLED, dtype=np.int64)
    inside = centres < len(phones)
    frame_phones[inside] = phones[centres[inside]]
    return frame_phones

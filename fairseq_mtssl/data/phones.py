"""Phones of utterances, for probes: one for each frame, or in the order they are said.

A data folder holds `dict.phn.txt` (`<phone> <count>` a line), `{split}.phn` (the phone at the middle of every
20 ms, an utterance a line, `<pad>` where there is none, an empty line for an utterance without alignment) and
`{split}.phones.tsv` (utterance, start s, end s, phone, word). `mtssl prepare aligned_phones` writes them.
A phone is known by its number in the dictionary, from 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest, read_lines
from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.files import write_text
from fairseq_mtssl.frames import SAMPLE_RATE_HZ, UNLABELLED, frame_count

NO_PHONE = "<pad>"
PHONE_COLUMNS = ("caption_id", "start_s", "end_s", "phone", "word")
LABEL_HOP_SAMPLES, LABEL_WINDOW_SAMPLES = 320, 400  # those of wav2vec 2.0's convolutions
_AGAIN = "Make it again: mtssl prepare aligned_phones."


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


def read_phone_names(path: str | Path) -> list[str]:
    """The phones of `dict.phn.txt`. Raises: ManifestError if it is absent, empty, malformed or repetitive."""
    found: dict[str, int] = {}
    errors = []
    for number, line in enumerate(read_lines(Path(path)), start=1):
        phone, _, count = line.partition(" ")
        if not phone or not count.strip().isdecimal():
            errors.append(f"line {number}: got {line!r}, wanted <phone> <count>.")
        elif phone in found:
            errors.append(f"line {number}: phone {phone!r} is on line {found[phone]} already.")
        else:
            found[phone] = number
    if not found and not errors:
        errors.append(f"holds no phone. {_AGAIN}")
    if errors:
        raise ManifestError(path, errors)
    return list(found)


def read_phone_frames(path: str | Path, manifest: AudioManifest, names: Sequence[str]) -> list[np.ndarray]:
    """`{split}.phn`: (T,) int64 of each utterance, UNLABELLED where there is no phone, (0,) if not aligned.

    Raises: ManifestError with every error: another number of lines than of utterances, of labels than the
    audio has frames (one more or less is let pass), a phone that the dictionary lacks.
    """
    lines = read_lines(Path(path))
    errors = []
    if len(lines) != len(manifest):
        got = f"{len(lines)} lines for the {len(manifest)} utterances of {manifest.path}"
        errors.append(f"{got}; line i of each is one utterance. {_AGAIN}")
    numbers = {**{name: place for place, name in enumerate(names)}, NO_PHONE: UNLABELLED}
    found: list[np.ndarray] = []
    for number, (line, samples) in enumerate(zip(lines, manifest.sizes.tolist(), strict=False), start=1):
        words = line.split()
        wanted = frame_count(samples, LABEL_HOP_SAMPLES, LABEL_WINDOW_SAMPLES)
        if words and abs(len(words) - wanted) > 1:
            rate = SAMPLE_RATE_HZ // LABEL_HOP_SAMPLES
            got = f"{len(words)} phones for {wanted} frames ({samples} samples at {rate} Hz)"
            errors.append(f"line {number}: {got}; they may differ by 1. {_AGAIN}")
        unknown = sorted(set(words) - set(numbers))
        if unknown:
            errors.append(f"line {number}: {_unknown(unknown)}")
        found.append(np.array([numbers.get(word, UNLABELLED) for word in words], dtype=np.int64))
    if errors:
        raise ManifestError(path, errors)
    return found


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
    """`{split}.phones.tsv`: (L,) int64 of each utterance, in the order of time; (0,) where nothing is said.

    utterances: the names of the rows of the manifest. left_out: phones that are not taken, such as silences,
    in lower case, which stands for upper case too.
    Raises: ManifestError with every error: a line that is not a phone, a phone that the dictionary lacks, an
    utterance that the manifest has twice, or none of it.
    """
    places = {name: place for place, name in enumerate(names)}
    said: dict[str, list[tuple[float, int]]] = {name: [] for name in utterances}
    rows, errors = read_phone_rows(path)
    rows = [row for row in rows if row.utterance in said]
    for row in rows:
        if row.phone.lower() in left_out:
            continue
        if row.phone not in places:
            errors.append(f"line {row.line}: {_unknown([row.phone])}")
        else:
            said[row.utterance].append((row.start_s, places[row.phone]))
    if len(said) < len(utterances):
        twice = sorted({name for name in utterances if utterances.count(name) > 1})[:5]
        errors.append(f"utterances of the manifest share a name: {', '.join(twice)}. {_AGAIN}")
    if not rows and not errors:
        errors.append(f"has no phone of the utterances of the manifest, such as {utterances[0]!r}. {_AGAIN}")
    if errors:
        raise ManifestError(path, errors)
    return [np.array([place for _, place in sorted(said[name])], dtype=np.int64) for name in utterances]


def _unknown(phones: Sequence[str]) -> str:
    listed = ", ".join(map(repr, phones))
    return f"{listed} not in the phone dictionary. Make all splits together."


def phones_of_frames(phones: np.ndarray, frames: int, hop_samples: int) -> np.ndarray:
    """The phone at the centre of each of so many frames, one every hop_samples: (frames,) int64.

    phones: (T,) one every 20 ms; a frame past the last of them is UNLABELLED.
    """
    # the centre of frame i is at (i + 0.5) · hop samples
    places = (2 * np.arange(frames) + 1) * hop_samples // (2 * LABEL_HOP_SAMPLES)
    found = np.full(frames, UNLABELLED, dtype=np.int64)
    inside = places < len(phones)
    found[inside] = phones[places[inside]]
    return found

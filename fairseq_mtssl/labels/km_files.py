"""`.km` files as arrays. A `.km` has one utterance per line, as labels separated by spaces.

The text of 960 h takes a minute to read, and is therefore read once. The result is written beside
`{split}.km` as `{split}.km.bin`, which every process maps into memory:

- the labels of all utterances end to end, as places in the list of symbols, 16 bits each (32 above 65,536
  symbols), padded to a multiple of 8 bytes;
- where each utterance begins and ends, (N + 1) times 64 bits;
- JSON: format, dtype, labels, lines, symbols, and the size and SHA-256 of the `.km`;
- the length of the JSON in 64 bits, and `MTSSL.KM`.

All numbers are little-endian. The same `.km` gives the same bytes. The modification time of the binary file
is set to that of its `.km`. While the times and the size agree, the two belong together; otherwise the hash
decides.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fairseq_mtssl.files import replacing, sha256_of
from fairseq_mtssl.frames import SAMPLE_RATE_HZ

logger = logging.getLogger(__name__)

FORMAT = 1
MAGIC = b"MTSSL.KM"
TAIL_BYTES = 8 + len(MAGIC)
CLOCK_TICK_NS = 1_000_000_000  # file systems keep times at least this precisely, except FAT


@dataclass(frozen=True, eq=False)
class LabelFile:
    """The lines of a `.km`, as text labels whose meaning is not known here.

    symbols: the distinct labels in order of first appearance. values: (M,) the labels of all lines one after
    the other, as places in symbols. ends: (N + 1,) where each line begins and ends in values. whole: whether
    the last line has a line end.
    """

    symbols: list[str]
    values: np.ndarray
    ends: np.ndarray
    whole: bool

    def __len__(self) -> int:
        return len(self.ends) - 1

    def line(self, row: int) -> np.ndarray:
        """(T,) the labels of a line, as places in symbols. row: counted from 0."""
        return self.values[self.ends[row] : self.ends[row + 1]]

    def lines_with(self, wrong: np.ndarray) -> Iterator[tuple[int, list[str]]]:
        """The number, from 1, of each line that has symbols marked in wrong, (S,) bool; and these symbols."""
        for row in range(len(self)) if wrong.any() else ():
            labels = self.line(row)
            found = dict.fromkeys(labels[wrong[labels]].tolist())
            if found:
                yield row + 1, [self.symbols[place] for place in found]

    def wrong_lengths(
        self, sizes: np.ndarray, rate_hz: float, window_samples: int, slack: int
    ) -> Iterator[tuple[int, int, str]]:
        """The lines whose number of labels differs by more than slack from the frames of their utterances.

        sizes: (N,) samples. rate_hz: labels per second. window_samples: that a label covers. Lines after the
        first N are not checked. Returns: number of the line, from 1, number of its labels, and the error.
        """
        got = np.diff(self.ends)[: len(sizes)]
        sizes = np.asarray(sizes)[: len(got)]
        hop = SAMPLE_RATE_HZ / rate_hz
        wanted = np.maximum(0, np.floor((sizes - window_samples) / hop).astype(np.int64) + 1)
        for row in np.flatnonzero(np.abs(got - wanted) > slack).tolist():
            length = f"{sizes[row]} samples at {rate_hz:g} Hz"
            text = f"{got[row]} labels for {wanted[row]} frames ({length}); they may differ by {slack}."
            yield row + 1, int(got[row]), text


def binary_path(km: Path) -> Path:
    """`{split}.km.bin`, beside `{split}.km`."""
    return km.with_name(f"{km.name}.bin")


def open_labels(km: Path) -> LabelFile:
    """The labels of a `.km`, mapped from its binary file, which is written if it is absent or out of date.

    If the binary file cannot be written, or the last line of the text is cut off, the labels are held in
    memory. Raises: OSError if the `.km` cannot be read.
    """
    found = _mapped(km)
    if found is not None:
        return found
    began = time.perf_counter()
    if _is_whole(km):
        try:
            _write_beside(km)
            found = _mapped(km)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): every process reads the text of %s at its start and holds its "
                "labels in memory. Start once where the folder is writable, or put the file there.",
                binary_path(km),
                error.strerror or error,
                km.name,
            )
        else:
            seconds = time.perf_counter() - began
            logger.info("%s: read as text in %.1f s; from now on mapped from %s.bin", km, seconds, km.name)
    return read_text(km) if found is None else found


def read_text(km: Path) -> LabelFile:
    """The labels of a `.km`, read from its text into memory. Raises: OSError."""
    buffer = io.BytesIO()
    _convert(km, buffer)
    raw = np.frombuffer(buffer.getbuffer(), dtype=np.uint8)
    return _labels(raw, _footer(raw))


def write_binary(km: Path, file: IO[bytes]) -> None:
    """Write the binary form of a `.km` into an open file, with the time of the `.km`. Raises: OSError."""
    stamp = km.stat().st_mtime_ns  # taken before it is read, so that a later change shows
    _convert(km, file)
    file.flush()
    os.utime(file.fileno(), ns=(stamp, stamp))


def _write_beside(km: Path) -> None:
    """Write the binary file; a killed process leaves a `.part`, which is never read."""
    with replacing(binary_path(km), is_shared=True) as file:  # other processes may write it, too
        write_binary(km, file)


def _is_whole(km: Path) -> bool:
    with open(km, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() in (b"\n", b"")


def _convert(km: Path, file: IO[bytes], dtype: str = "<u2") -> None:
    """Read the text of a `.km` line by line, and write the format that the top of this module describes."""
    places: defaultdict[bytes, int] = defaultdict()
    places.default_factory = places.__len__
    digest, size, ends, line = hashlib.sha256(), 0, [0], b"\n"
    with open(km, "rb") as text:
        for line in text:
            digest.update(line)
            size += len(line)
            words = line.split()
            ends.append(ends[-1] + len(words))
            row = np.fromiter(map(places.__getitem__, words), np.int64, len(words))
            file.write(row.astype(dtype).tobytes())
    if len(places) > np.iinfo(dtype).max + 1:
        file.seek(0)
        file.truncate()
        return _convert(km, file, "<u4")
    about = {
        "format": FORMAT,
        "dtype": dtype,
        "labels": ends[-1],
        "lines": len(ends) - 1,
        "whole": line.endswith(b"\n"),
        "km_bytes": size,
        "km_sha256": digest.hexdigest(),
        "symbols": [word.decode("utf-8", "backslashreplace") for word in places],
    }
    footer = json.dumps(about).encode()
    file.write(bytes(_labels_bytes(about) - ends[-1] * np.dtype(dtype).itemsize))
    file.write(np.array(ends, dtype="<i8").tobytes())
    file.write(footer + len(footer).to_bytes(8, "little") + MAGIC)


def _labels_bytes(about: dict[str, Any]) -> int:
    """The number of bytes of the labels, padding included."""
    return -(-about["labels"] * np.dtype(about["dtype"]).itemsize // 8) * 8


def _footer(raw: np.ndarray) -> dict[str, Any]:
    """The JSON of a binary file. raw: (bytes,) uint8. Raises: ValueError if the file is not complete."""
    tail = raw[-TAIL_BYTES:].tobytes()
    length = int.from_bytes(tail[:8], "little")
    if tail[8:] != MAGIC:
        raise ValueError("no end")
    about = json.loads(raw[-TAIL_BYTES - length : -TAIL_BYTES].tobytes())
    if about["format"] != FORMAT:
        raise ValueError("another format")
    if _labels_bytes(about) + 8 * (about["lines"] + 1) + length + TAIL_BYTES != len(raw):
        raise ValueError("another size")
    return about


def _labels(raw: np.ndarray, about: dict[str, Any]) -> LabelFile:
    start = _labels_bytes(about)
    values = raw[:start].view(about["dtype"])[: about["labels"]]
    ends = raw[start : start + 8 * (about["lines"] + 1)].view("<i8")
    return LabelFile(about["symbols"], values, ends, about["whole"])


def _mapped(km: Path) -> LabelFile | None:
    """The labels of a `.km`, mapped from its binary file; None if that is absent, broken or of another `.km`.

    Raises: OSError if the `.km` cannot be read.
    """
    path = binary_path(km)
    try:
        raw = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        about = _footer(raw)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _labels(raw, about) if _belongs(path, km, about) else None


def _belongs(path: Path, km: Path, about: dict[str, Any]) -> bool:
    """Whether a binary file was made from this `.km` as it is now."""
    ours, text = path.stat(), km.stat()
    if text.st_size != about["km_bytes"]:
        return False
    # a change within one clock tick may keep the time, so that only the times of older texts can be trusted
    settled = ours.st_ctime_ns - text.st_mtime_ns > CLOCK_TICK_NS
    if settled and ours.st_mtime_ns == text.st_mtime_ns:
        return True
    if sha256_of(km) != about["km_sha256"]:
        return False
    with suppress(OSError):  # a copy has its own time; with the right one it is not hashed again
        os.utime(path, ns=(text.st_mtime_ns, text.st_mtime_ns))
    return True

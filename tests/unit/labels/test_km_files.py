"""`.km` files: read as text once, mapped from then on, never from a binary file of another text."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from fairseq_mtssl.labels import km_files as label_files
from fairseq_mtssl.labels.km_files import LabelFile, binary_path, open_labels, read_text

TEXT = "3 1 3\n\n0\n17 AH0 1\n"
LONG_AGO_NS = 1_600_000_000_123_456_789


def write(folder: Path, text: str = TEXT, at_ns: int | None = None) -> Path:
    km = folder / "train.km"
    km.write_text(text)
    if at_ns is not None:
        os.utime(km, ns=(at_ns, at_ns))
    return km


def lines(labels: LabelFile) -> list[list[str]]:
    """The file's words again, read off the arrays."""
    words = np.array([*labels.symbols, ""])
    return [words[labels.values[a:b]].tolist() for a, b in zip(labels.ends[:-1], labels.ends[1:])]


@pytest.mark.parametrize("text", [TEXT, "", "\n", "\n\n5\n", "1 2", "7\r\n8  9 \n"])
def test_text_and_map_give_the_words_of_every_line(tmp_path: Path, text: str) -> None:
    km = write(tmp_path, text)
    wanted = [line.split() for line in text.split("\n")]
    wanted = wanted if wanted[-1] else wanted[:-1]
    for labels in (read_text(km), open_labels(km), open_labels(km)):
        assert lines(labels) == wanted and len(labels) == len(wanted)
        assert labels.whole == (not text or text.endswith("\n"))
    assert binary_path(km).exists() == labels.whole


def test_the_text_is_read_once_and_then_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    km = write(tmp_path)
    with caplog.at_level(logging.INFO):
        first = open_labels(km)
    assert "read as text" in caplog.text and "mapped from train.km.bin" in caplog.text
    monkeypatch.setattr(label_files, "_convert", lambda *_: pytest.fail("the text was read"))
    again = open_labels(km)
    assert lines(again) == lines(first)
    base = again.values
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap) and not again.values.flags.writeable


def test_the_binary_file_of_a_text_is_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    for name, at in (("a", LONG_AGO_NS), ("b", None)):
        (tmp_path / name).mkdir()
        open_labels(write(tmp_path / name, at_ns=at))
    assert (tmp_path / "a/train.km.bin").read_bytes() == (tmp_path / "b/train.km.bin").read_bytes()
    assert (tmp_path / "a/train.km.bin").stat().st_mtime_ns == LONG_AGO_NS


SWAPPED = "1 3 3\n\n0\n17 AH0 1\n"  # as long as TEXT


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [(SWAPPED, None), (SWAPPED, LONG_AGO_NS - 1), ("1\n", None), ("1\n", LONG_AGO_NS)],
)
def test_a_replaced_text_is_read_anew(tmp_path: Path, text: str, at_ns: int | None) -> None:
    open_labels(write(tmp_path, at_ns=LONG_AGO_NS))
    labels = open_labels(write(tmp_path, text, at_ns))
    assert lines(labels) == [line.split() for line in text.split("\n")[:-1]]


def test_a_change_within_a_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    km = write(tmp_path)
    open_labels(km)
    changed = write(tmp_path, SWAPPED, at_ns=km.stat().st_mtime_ns)
    assert lines(open_labels(changed))[0] == ["1", "3", "3"]


def test_a_copied_folder_needs_no_reading_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    km = write(tmp_path, at_ns=LONG_AGO_NS)
    open_labels(km)
    os.utime(km, ns=(LONG_AGO_NS + 10**9, LONG_AGO_NS + 10**9))
    monkeypatch.setattr(label_files, "_convert", lambda *_: pytest.fail("the text was read"))
    open_labels(km)
    monkeypatch.setattr(label_files, "sha256_of", lambda *_: pytest.fail("the text was hashed twice"))
    assert lines(open_labels(km))[0] == ["3", "1", "3"]


def test_a_broken_binary_file_is_made_anew(tmp_path: Path) -> None:
    km = write(tmp_path, at_ns=LONG_AGO_NS)
    open_labels(km)
    path = binary_path(km)
    whole = path.read_bytes()
    broken = [whole[:length] for length in range(0, len(whole), 7)]
    broken += [whole[8:], whole + b"\0", whole.replace(b'"format": 1', b'"format": 2'), b"\0" * len(whole)]
    for content in broken:
        path.write_bytes(content)
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
        assert lines(open_labels(km))[3] == ["17", "AH0", "1"]
        assert path.read_bytes() == whole


def test_where_nothing_can_be_written_labels_are_held_in_memory_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    km = write(tmp_path)
    binary_path(km).mkdir()  # no file can take this name; a mode would not hold root back
    assert lines(open_labels(km))[0] == ["3", "1", "3"]
    assert "every process reads the text of train.km" in caplog.text and "writable" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.km", "train.km.bin"]


def test_ranks_that_start_together_all_get_the_labels(tmp_path: Path) -> None:
    km = write(tmp_path, "".join(f"{row} {row % 7}\n" for row in range(2000)))
    start = Barrier(6)

    def rank(_: int) -> list[list[str]]:
        start.wait()
        return lines(open_labels(km))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(rank, range(6)))
    assert all(each == found[0] for each in found) and found[0][1999] == ["1999", "4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.km", "train.km.bin"]


def test_more_symbols_than_16_bits_count_are_told_apart(tmp_path: Path) -> None:
    km = write(tmp_path, " ".join(map(str, range(65_537))) + "\n65536 0\n")
    open_labels(km)
    labels = open_labels(km)
    assert labels.values.dtype.itemsize == 4 and lines(labels)[1] == ["65536", "0"]
    assert lines(labels)[0][-1] == "65536"


def test_an_absent_text_is_an_error_even_beside_its_binary_file(tmp_path: Path) -> None:
    km = write(tmp_path)
    open_labels(km)
    km.unlink()
    with pytest.raises(FileNotFoundError):
        open_labels(km)


def test_lines_with_wrong_symbols_and_wrong_lengths_are_numbered_from_one(tmp_path: Path) -> None:
    labels = open_labels(write(tmp_path))
    wrong = np.array([symbol in ("3", "AH0", "1") for symbol in labels.symbols])
    assert list(labels.lines_with(wrong)) == [(1, ["3", "1"]), (4, ["AH0", "1"])]
    assert list(labels.lines_with(np.zeros(len(wrong), dtype=bool))) == []
    # 400 samples make a label, 320 more another: wanted 1, 0, 3
    found = list(labels.wrong_lengths(np.array([400, 399, 1040]), 50.0, 400, slack=1))
    assert [(line, got) for line, got, _ in found] == [(1, 3), (3, 1)]
    assert found[0][2] == "3 labels for 1 frames (400 samples at 50 Hz); they may differ by 1."

"""Item files are read and sliced, and all of their errors are reported at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.evaluation.abx_items import Items, read_items, slice_items

HEADER = "#file onset offset #phone prev-phone next-phone speaker"


def items(path: Path, *lines: str) -> Items:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return read_items(path)


def test_names_become_numbers_in_order_of_appearance(tmp_path: Path) -> None:
    found = items(tmp_path / "x.item", "u 0.5 1 a q n s2", "v 0 1.25 b q n s1", "u 0 1 a n q s2")
    assert found.files == ["u", "v"] and found.file.tolist() == [0, 1, 0]
    assert found.phone.tolist() == [0, 1, 0] and found.speaker.tolist() == [0, 1, 0]
    assert found.context.tolist() == [0, 0, 1]
    assert found.onset_s.tolist() == [0.5, 0, 0] and found.offset_s.tolist() == [1, 1.25, 1]


def test_contexts_are_pairs_and_not_concatenated_names(tmp_path: Path) -> None:
    found = items(tmp_path / "x.item", "u 0 1 a b cd s", "u 0 1 a bc d s")
    assert found.context.tolist() == [0, 1]


@pytest.mark.parametrize(("slicing", "ends"), [("librilight", [4, 0, 10, 2]), ("exact", [5, 1, 10, 3])])
def test_slicing_by_hand(slicing: str, ends: list[int], tmp_path: Path) -> None:
    # at 50 Hz: 0.005 -> ceil(-0.25) = 0; 0.09 -> floor(4) = 4; 0.015 -> ceil(0.25) = 1;
    # 0.029 -> floor(0.95) = 0; 0.05 -> ceil(2) = 2 and floor(2) = 2; the third ends with the 10 frames of
    # its file
    lines = ["u 0.005 0.09 a q n s", "u 0.015 0.029 a q n s", "u 0.1 9 a q n s", "u 0.05 0.05 a q n s"]
    spans = slice_items(items(tmp_path / "x.item", *lines), 50.0, np.full(4, 10), slicing)
    assert spans.start.tolist() == [0, 1, 5, 2]
    assert spans.end.tolist() == ends
    assert spans.kept.tolist() == [True, False, True, slicing == "exact"]


def test_every_malformed_line_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as error:
        items(
            tmp_path / "x.item",
            "u 0 1 a q n s",
            "u 0 1 a q n",
            "u x 1 a q n s",
            "u 2 1 a q n s",
            "u 0 nan a q n s",
        )
    assert len(error.value.errors) == 4
    assert [error.split(":")[0] for error in error.value.errors] == ["line 3", "line 4", "line 5", "line 6"]
    assert "6 columns, wanted file, onset s" in error.value.errors[0]
    assert "wanted 0 ≤ onset ≤ offset" in error.value.errors[2]


def test_a_file_without_header_is_refused_since_its_first_item_would_be_lost(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text("u 0 1 a q n s\nu 0 1 b q n s\n")
    with pytest.raises(ManifestError, match="line 1 is an item"):
        read_items(tmp_path / "x.item")


@pytest.mark.parametrize(("text", "message"), [("", "holds no items"), (HEADER + "\n", "holds no items")])
def test_an_empty_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_items(tmp_path / "x.item")


def test_an_absent_file_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read_items(tmp_path / "none.item")
    (tmp_path / "x.item").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_items(tmp_path / "x.item")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.data.phones import (
    phones_of_frames,
    read_phone_frames,
    read_phone_names,
    read_phone_sequences,
)
from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.frames import UNLABELLED

NAMES = ["sil", "ae", "t"]


def manifest(folder: Path, *samples: int) -> AudioManifest:
    files = [f"{number}.wav" for number in range(len(samples))]
    return AudioManifest(folder / "train.tsv", folder, files, np.array(samples))


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_dictionary_gives_names_in_its_order(tmp_path: Path) -> None:
    assert read_phone_names(write(tmp_path / "dict.phn.txt", "sil 9", "ae 4", "t 2")) == NAMES


def test_errors_of_a_dictionary_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="3 errors") as caught:
        read_phone_names(write(tmp_path / "d", "sil 9", "ae", "sil 3", "t x"))
    assert "line 3: phone 'sil' is on line 1 already" in str(caught.value)
    with pytest.raises(ManifestError, match="holds no phone"):
        read_phone_names(write(tmp_path / "e"))


def test_one_phone_per_frame_with_gaps_and_utterances_without_phones(tmp_path: Path) -> None:
    # 1040 samples: 3 frames
    path = write(tmp_path / "train.phn", "sil <pad> t", "", "ae ae")
    phones = read_phone_frames(path, manifest(tmp_path, 1040, 5000, 1040), NAMES)
    assert [row.tolist() for row in phones] == [[0, UNLABELLED, 2], [], [1, 1]]


def test_errors_of_frame_phones_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path / "train.phn", "sil sil sil sil sil", "sil zh q zh", "t t t")
    with pytest.raises(ManifestError, match="3 errors") as caught:
        read_phone_frames(path, manifest(tmp_path, 1040, 1360), NAMES)
    message = str(caught.value)
    assert (
        "3 lines for the 2 utterances" in message
        and "line 2: 'q', 'zh' not in the phone dictionary" in message
    )
    assert "line 1: 5 phones for 3 frames (1040 samples at 50 Hz); they may differ by 1" in message


def test_phone_sequences_are_in_the_order_of_time_without_silences(tmp_path: Path) -> None:
    rows = [
        "0\t0.2\t0.3\tt\t",
        "other\t0\t1\tzh\t",
        "0\t0\t0.1\tSIL\t",
        "0\t0.1\t0.2\tae\tat",
        "0\t0.3\t0.4\tt\t",
    ]
    path = write(tmp_path / "train.phones.tsv", "caption_id\tstart_s\tend_s\tphone\tword", *rows)
    sequences = read_phone_sequences(path, ["0", "1"], NAMES, left_out=["sil"])
    assert [row.tolist() for row in sequences] == [[1, 2, 2], []]


def test_errors_of_phone_sequences_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "header", "0\tnow\t1\tt\t", "0\t0\t1\tzh\t", "0\t1")
    with pytest.raises(ManifestError, match="4 errors") as caught:
        read_phone_sequences(path, ["0", "1", "1"], NAMES)
    assert "share a name: 1" in str(caught.value) and "line 3: 'zh'" in str(caught.value)
    with pytest.raises(ManifestError, match="has no phone of the manifest's utterances, such as 'a'"):
        read_phone_sequences(write(tmp_path / "q.tsv", "header", "0\t0\t1\tt\t"), ["a"], NAMES)


@pytest.mark.parametrize(
    ("hop", "wanted"),
    [
        (320, [5, 6, 7, 8, UNLABELLED]),
        # 100 Hz: centres at 5, 15, 25, 35 and 45 ms
        (160, [5, 5, 6, 6, 7]),
        # 25 Hz: centres at 20 and 60 ms, where the next phone begins
        (640, [6, 8, UNLABELLED, UNLABELLED, UNLABELLED]),
    ],
)
def test_a_frame_has_the_phone_at_its_centre(hop: int, wanted: list[int]) -> None:
    assert phones_of_frames(np.array([5, 6, 7, 8]), 5, hop).tolist() == wanted

"""Cluster labels: read, checked against the audio, laid on frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.frames import conv_length
from fairseq_mtssl.labels.frame_labels import (
    FrameLabels,
    dictionary_of,
    read_frame_labels,
    read_label_dictionary,
    read_label_rate_hz,
)

CONV = [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2
FBANK = [(80, 400, 160)] + [(16, 5, 2, 2)] * 2


def folder_of(tmp_path: Path, text: str, clusters: int = 4, rate_hz: float | None = 50.0) -> Path:
    (tmp_path / "train.km").write_text(text)
    (tmp_path / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(clusters)))
    if rate_hz is not None:
        (tmp_path / "targets.json").write_text(json.dumps({"rate_hz": rate_hz, "clusters": clusters}))
    return tmp_path


def manifest_of(*sizes: int) -> AudioManifest:
    files = [f"{row}.wav" for row in range(len(sizes))]
    return AudioManifest(Path("train.tsv"), Path("."), files, np.array(sizes))


def line(count: int, first: int = 0) -> str:
    return " ".join(str((first + place) % 4) for place in range(count)) + "\n"


def read(folder: Path, manifest: AudioManifest) -> FrameLabels:
    return read_frame_labels(
        folder / "train.km", manifest, read_label_dictionary(folder), read_label_rate_hz(folder), CONV
    )


def test_labels_become_dictionary_indices_after_the_four_special_symbols(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49) + line(24, first=2))
    labels = read(folder, manifest_of(16_000, 8_000))
    assert len(labels) == 2
    assert labels.frames(0, 0, 5).tolist() == [4, 5, 6, 7, 4]
    assert labels.frames(1, 3, 2).tolist() == [5, 6]
    assert len(read_label_dictionary(folder)) == 8


def test_labels_at_100_hz_are_taken_every_second_not_cut_to_the_first_half(tmp_path: Path) -> None:
    # 16,000 samples: 98 labels at 100 Hz, 49 frames
    folder = folder_of(tmp_path, line(98), rate_hz=100.0)
    labels = read(folder, manifest_of(16_000))
    assert labels.frames(0, 0, 4).tolist() == [4, 6, 4, 6]
    assert labels.frames(0, 48, 1).tolist() == [4 + 96 % 4]


def test_labels_at_25_hz_are_repeated(tmp_path: Path) -> None:
    labels = read(folder_of(tmp_path, line(25), rate_hz=25.0), manifest_of(16_000))
    assert labels.frames(0, 0, 5).tolist() == [4, 4, 5, 5, 6]


@pytest.mark.parametrize(
    ("rate_hz", "count", "wanted"),
    # one label every 160, 320, 640 samples over 400; a frame is centred on its 400 from sample 640 · i on
    [(100.0, 98, [0, 4, 8, 96]), (50.0, 49, [0, 2, 4, 48]), (25.0, 25, [0, 1, 2, 24])],
)
def test_frames_at_25_hz_take_the_label_at_their_centre(
    tmp_path: Path, rate_hz: float, count: int, wanted: list[int]
) -> None:
    (tmp_path / "train.km").write_text(" ".join(map(str, range(count))) + "\n")
    (tmp_path / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(count)))
    dictionary, manifest = read_label_dictionary(tmp_path), manifest_of(16_000)
    labels = read_frame_labels(tmp_path / "train.km", manifest, dictionary, rate_hz, FBANK)
    frames = conv_length(16_000, FBANK)
    found = labels.frames(0, 0, frames)
    assert frames == 25 and (found[[0, 1, 2, 24]] - dictionary.nspecial).tolist() == wanted
    # a crop that begins at the third frame
    assert np.array_equal(labels.frames(0, 3, 5), found[3:8])


def test_frames_past_the_last_label_have_none(tmp_path: Path) -> None:
    labels = read(folder_of(tmp_path, line(48)), manifest_of(16_000))
    assert labels.frames(0, 46, 4).tolist() == [6, 7, 1, 1]


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 238_720, 238_721])
def test_as_many_labels_are_wanted_as_the_encoder_makes_frames(tmp_path: Path, samples: int) -> None:
    frames = int(conv_length(samples, CONV))
    for count in (max(frames - 1, 0), frames, frames + 1):
        assert len(read(folder_of(tmp_path, line(count)), manifest_of(samples))) == 1
    with pytest.raises(ManifestError, match="line 1"):
        read(folder_of(tmp_path, line(frames + 2)), manifest_of(samples))


def test_every_fault_is_told_with_line_numbers_counts_and_cure(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49) + line(738) + line(98) + "0 9 1\n")
    with pytest.raises(ManifestError) as error:
        read(folder, manifest_of(16_000, 238_720, 16_000, 1_040))
    text = str(error.value)
    assert (folder / "train.km.bin").exists()
    with pytest.raises(ManifestError) as mapped:
        read(folder, manifest_of(16_000, 238_720, 16_000, 1_040))
    assert str(mapped.value) == text
    assert "train.km: 3 errors" in text
    assert "line 2: 738 labels for 745 frames (238720 samples at 50 Hz); they may differ by 1." in text
    assert "line 3: 98 labels for 49 frames" in text and "They would fit 100 Hz: is rate_hz" in text
    assert "line 4: label '9' is not in dict.km.txt" in text
    assert "Make the labels again" in text


def test_a_dictionary_in_another_order_gives_its_own_indices_from_the_same_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49))
    assert read(folder, manifest_of(16_000)).frames(0, 0, 4).tolist() == [4, 5, 6, 7]
    (folder / "dict.km.txt").write_text("3 1\n2 1\n1 1\n0 1\n")
    assert read(folder, manifest_of(16_000)).frames(0, 0, 4).tolist() == [7, 6, 5, 4]


def test_labels_are_mapped_not_held(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49))
    values = read(folder, manifest_of(16_000)).values
    while isinstance(values.base, np.ndarray):
        values = values.base
    assert isinstance(values, np.memmap)


def test_a_special_symbol_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'<unk>' is not in dict.km.txt"):
        read(folder_of(tmp_path, "<unk> " + line(48)), manifest_of(16_000))


def test_a_missing_shard_is_refused_with_both_counts(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="1 lines for the 2 utterances of train.tsv"):
        read(folder_of(tmp_path, line(49)), manifest_of(16_000, 16_000))
    with pytest.raises(ManifestError, match="2 lines for the 1 utterances"):
        read(folder_of(tmp_path, line(49) * 2), manifest_of(16_000))


def test_a_file_cut_short_within_its_last_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cut short"):
        read(folder_of(tmp_path, line(49).rstrip("\n")), manifest_of(16_000))


def test_an_absent_file_is_named_with_the_cure(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49))
    with pytest.raises(ManifestError, match="valid.km.*\n.*task.labels"):
        read_frame_labels(folder / "valid.km", manifest_of(16_000), read_label_dictionary(folder), 50.0, CONV)


def test_without_a_rate_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="task.label_rate_hz"):
        read_label_rate_hz(folder_of(tmp_path, "", rate_hz=None))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "holds no label"),
        ("0 1\n0 1\n", "line 2: label '0' is there already"),
        ("0\n", "line 1: got '0', wanted <label> <count>"),
        ("0 1\n1 1\n2 1\n3 1\n4 1\n", "5 labels, but targets.json counts 4 clusters"),
    ],
)
def test_a_broken_dictionary_is_refused(tmp_path: Path, text: str, error: str) -> None:
    folder = folder_of(tmp_path, "")
    (folder / "dict.km.txt").write_text(text)
    with pytest.raises(ManifestError, match=error):
        read_label_dictionary(folder)


def test_a_dictionary_is_the_one_fairseq_reads_and_comes_back_from_its_symbols(tmp_path: Path) -> None:
    from fairseq.data import Dictionary

    folder = folder_of(tmp_path, "")
    ours = read_label_dictionary(folder)
    assert ours.indices == Dictionary.load(str(folder / "dict.km.txt")).indices
    assert dictionary_of(ours.symbols).indices == ours.indices

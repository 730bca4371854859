"""Label folders: read, checked against the audio, given to the frames of an encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairseq.data import Dictionary
from tiny_encoder import FBANK_LAYERS, WAVEFORM_LAYERS

from fairseq_mtssl.data.dictionary import SPECIALS
from fairseq_mtssl.errors import ManifestError, TargetError
from fairseq_mtssl.frames import SPECIAL_SYMBOLS, conv_length, frame_count
from fairseq_mtssl.labels import shards
from fairseq_mtssl.labels.folder import LabelFolder, Labels
from fairseq_mtssl.tasks.label_sets import dictionary_of

SIZES = [16_000, 8_000, 399, 12_345]


def folder_of(
    path: Path, text: str, clusters: int = 4, rate_hz: float | None = 50.0, **about: Any
) -> LabelFolder:
    (path / "train.km").write_text(text)
    shards.write_dictionary(path, clusters)
    if rate_hz is not None:
        (path / "targets.json").write_text(json.dumps({"rate_hz": rate_hz, "clusters": clusters, **about}))
    return LabelFolder(path)


def counted(
    path: Path, rate_hz: int, sizes: list[int] = SIZES, off: int = 0, said_hz: int = 0
) -> LabelFolder:
    """A folder with as many labels as the utterances have frames, or `off` more, counting up to 4."""
    counts = [max(0, frame_count(size, 16_000 // rate_hz, 400) + off) for size in sizes]
    rows = [" ".join(str(place % 5) for place in range(count)) for count in counts]
    text = "".join(f"{row}\n" for row in rows)
    return folder_of(path, text, 5, said_hz or rate_hz, window_samples=400)


def line(count: int, first: int = 0) -> str:
    return " ".join(str((first + place) % 4) for place in range(count)) + "\n"


def read(folder: LabelFolder, *sizes: int) -> Labels:
    return folder.labels("train", sizes, conv_layers=WAVEFORM_LAYERS)


def test_labels_come_back_per_utterance(tmp_path: Path) -> None:
    labels = counted(tmp_path, 50).labels("train", SIZES)
    assert [len(labels[i]) for i in range(len(labels))] == [49, 24, 0, 38] == [len(each) for each in labels]
    assert labels[1][:7].tolist() == [0, 1, 2, 3, 4, 0, 1] and labels.rate_hz == 50 and labels.clusters == 5


@pytest.mark.parametrize("rate_hz", [50, 100])
def test_labels_may_be_off_by_a_frame_of_50_hz(tmp_path: Path, rate_hz: int) -> None:
    slack = rate_hz // 50
    for off in (-slack, slack):
        folder = counted(tmp_path, rate_hz, SIZES[:1], off)
        for conv_layers in (None, WAVEFORM_LAYERS, FBANK_LAYERS):
            labels = folder.labels("train", SIZES[:1], conv_layers=conv_layers)
            assert len(labels[0]) == frame_count(16_000, 16_000 // rate_hz, 400) + off
    for off in (-slack - 1, slack + 1):
        folder = counted(tmp_path, rate_hz, SIZES[:1], off)
        for conv_layers in (None, WAVEFORM_LAYERS, FBANK_LAYERS):
            with pytest.raises(TargetError, match=f"may differ by {slack}"):
                folder.labels("train", SIZES[:1], conv_layers=conv_layers)


def test_seven_labels_off_name_file_line_numbers_and_hint(tmp_path: Path) -> None:
    folder = counted(tmp_path, 50)
    path = tmp_path / "train.km"
    lines = path.read_text().split("\n")
    lines[3] = " ".join(lines[3].split()[:-7])
    path.write_text("\n".join(lines))
    message = (
        r"train.km line 4: 31 labels for 38 frames \(12345 samples at 50 Hz\); they may differ by 1.*"
        "Make the labels again from this manifest"
    )
    with pytest.raises(TargetError, match=message):
        folder.labels("train", SIZES)


def test_labels_at_another_rate_than_said_are_refused(tmp_path: Path) -> None:
    folder = counted(tmp_path, 100, said_hz=50)
    with pytest.raises(TargetError, match=r"line 1: 98 labels for 49 frames \(16000 samples at 50 Hz\)"):
        folder.labels("train", SIZES)
    assert len(folder.labels("train", SIZES, rate_hz=100.0)) == 4


def test_unknown_labels_and_words_are_refused_with_the_line(tmp_path: Path) -> None:
    folder = counted(tmp_path, 50)
    with pytest.raises(TargetError, match="train.km line 1: labels '3', '4' not in dict.km.txt"):
        folder.labels("train", SIZES, symbols=["0", "1", "2"])
    path = tmp_path / "train.km"
    path.write_text(path.read_text().replace("4 0", "x 0", 1))
    with pytest.raises(TargetError, match="train.km line 1: label 'x' not in dict.km.txt"):
        folder.labels("train", SIZES)


@pytest.mark.parametrize(("cut", "message"), [(1, "line 4: cut off"), (100, "3 lines for the 4 utterances")])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int, message: str) -> None:
    folder = counted(tmp_path, 50)
    path = tmp_path / "train.km"
    text = path.read_bytes()
    path.write_bytes(text[:-cut] if cut == 1 else b"".join(text.splitlines(keepends=True)[:3]))
    with pytest.raises(TargetError, match=message):
        folder.labels("train", SIZES)


def test_an_absent_file_is_named_with_the_hint(tmp_path: Path) -> None:
    folder = counted(tmp_path, 50)
    with pytest.raises(TargetError, match="valid.km.*\n.*no such file.*task.labels"):
        folder.labels("valid", SIZES)


@pytest.mark.parametrize("rate_hz", [None, 0, -50, 16_000, True, "50"])
def test_without_a_possible_rate_labels_are_refused(tmp_path: Path, rate_hz: Any) -> None:
    folder = folder_of(tmp_path, "", rate_hz=None)
    if rate_hz is not None:
        (tmp_path / "targets.json").write_text(json.dumps({"rate_hz": rate_hz}))
    message = "no finished targets" if rate_hz is None else f"rate_hz is {rate_hz!r}, wanted"
    with pytest.raises(TargetError, match=message) as error:
        folder.labels("train", [])
    assert "task.label_rate_hz" in str(error.value)


def test_labels_fit_the_window_they_were_made_with(tmp_path: Path) -> None:
    # 16,000 samples at 50 Hz: 50 frames over windows of 160 samples, 48 over windows of 960
    folder = folder_of(tmp_path, line(48), window_samples=960)
    assert len(read(folder, 16_000)[0]) == 48
    with pytest.raises(TargetError, match="48 labels for 50 frames"):
        read(folder_of(tmp_path, line(48), window_samples=160), 16_000)


def test_labels_become_dictionary_indices_after_the_four_special_symbols(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49) + line(24, first=2))
    labels = read(folder, 16_000, 8_000)
    assert len(labels) == 2
    assert labels.frames(0, 0, 5).tolist() == [4, 5, 6, 7, 4]
    assert labels.frames(1, 3, 2).tolist() == [5, 6]
    assert folder.symbols == ["0", "1", "2", "3"] and labels.clusters == 4


def test_labels_at_100_hz_are_taken_every_second_not_cut_to_the_first_half(tmp_path: Path) -> None:
    # 16,000 samples: 98 labels at 100 Hz, 49 frames
    folder = folder_of(tmp_path, line(98), rate_hz=100.0)
    labels = read(folder, 16_000)
    assert labels.frames(0, 0, 4).tolist() == [4, 6, 4, 6]
    assert labels.frames(0, 48, 1).tolist() == [4 + 96 % 4]


def test_labels_at_25_hz_are_repeated(tmp_path: Path) -> None:
    labels = read(folder_of(tmp_path, line(25), rate_hz=25.0), 16_000)
    assert labels.frames(0, 0, 5).tolist() == [4, 4, 5, 5, 6]


@pytest.mark.parametrize(
    ("rate_hz", "count", "wanted"),
    # one label every 160, 320, 640 samples over 400; a frame is centred on its 400 from sample 640 · i on
    [(100.0, 98, [0, 4, 8, 96]), (50.0, 49, [0, 2, 4, 48]), (25.0, 25, [0, 1, 2, 24])],
)
def test_frames_at_25_hz_take_the_label_at_their_centre(
    tmp_path: Path, rate_hz: float, count: int, wanted: list[int]
) -> None:
    folder = folder_of(tmp_path, " ".join(map(str, range(count))) + "\n", clusters=count, rate_hz=rate_hz)
    labels = folder.labels("train", [16_000], conv_layers=FBANK_LAYERS)
    frames = conv_length(16_000, FBANK_LAYERS)
    found = labels.frames(0, 0, frames)
    assert frames == 25 and (found[[0, 1, 2, 24]] - SPECIAL_SYMBOLS).tolist() == wanted
    # a crop that begins at the third frame
    assert np.array_equal(labels.frames(0, 3, 5), found[3:8])


def test_frames_past_the_last_label_have_none(tmp_path: Path) -> None:
    labels = read(folder_of(tmp_path, line(48)), 16_000)
    assert labels.frames(0, 46, 4).tolist() == [6, 7, 1, 1]


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 238_720, 238_721])
def test_as_many_labels_are_wanted_as_the_encoder_makes_frames(tmp_path: Path, samples: int) -> None:
    frames = int(conv_length(samples, WAVEFORM_LAYERS))
    for count in (max(frames - 1, 0), frames, frames + 1):
        assert len(read(folder_of(tmp_path, line(count)), samples)) == 1
    with pytest.raises(TargetError, match="line 1"):
        read(folder_of(tmp_path, line(frames + 2)), samples)


def test_every_fault_is_told_with_line_numbers_counts_and_cure(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49) + line(738) + line(98) + "0 9 1\n")
    with pytest.raises(TargetError) as error:
        read(folder, 16_000, 238_720, 16_000, 1_040)
    text = str(error.value)
    assert (tmp_path / "train.km.bin").exists()
    with pytest.raises(TargetError) as mapped:
        read(folder, 16_000, 238_720, 16_000, 1_040)
    assert str(mapped.value) == text
    assert "train.km: 3 errors" in text
    assert "line 2: 738 labels for 745 frames (238720 samples at 50 Hz); they may differ by 1." in text
    assert "line 3: 98 labels for 49 frames" in text and "They would fit 100 Hz: is rate_hz" in text
    assert "line 4: label '9' not in dict.km.txt" in text
    assert "Make the labels again" in text


def test_a_dictionary_in_another_order_gives_its_own_indices_from_the_same_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49))
    assert read(folder, 16_000).frames(0, 0, 4).tolist() == [4, 5, 6, 7]
    (tmp_path / "dict.km.txt").write_text("3 1\n2 1\n1 1\n0 1\n")
    assert read(LabelFolder(tmp_path), 16_000).frames(0, 0, 4).tolist() == [7, 6, 5, 4]


def test_labels_are_mapped_not_held(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, line(49))
    values = read(folder, 16_000).file.values
    while isinstance(values.base, np.ndarray):
        values = values.base
    assert isinstance(values, np.memmap)


def test_a_special_symbol_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="'<unk>' not in dict.km.txt"):
        read(folder_of(tmp_path, "<unk> " + line(48)), 16_000)


def test_a_missing_shard_is_refused_with_both_counts(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="1 lines for the 2 utterances of train.tsv"):
        read(folder_of(tmp_path, line(49)), 16_000, 16_000)
    with pytest.raises(TargetError, match="2 lines for the 1 utterances"):
        read(folder_of(tmp_path, line(49) * 2), 16_000)


def test_a_file_cut_short_within_its_last_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cut off"):
        read(folder_of(tmp_path, line(49).rstrip("\n")), 16_000)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "holds no label"),
        ("0 1\n0 1\n", "line 2: label '0' is on line 1 already"),
        ("<unk> 1\n", "line 1: got '<unk> 1'; <unk> is a special symbol"),
        ("0\n", "line 1: got '0', wanted <label> <count>"),
        ("0 1\n1 1\n2 1\n3 1\n4 1\n", "5 labels, but targets.json counts 4 clusters"),
    ],
)
def test_a_broken_dictionary_is_refused(tmp_path: Path, text: str, error: str) -> None:
    folder = folder_of(tmp_path, "")
    (tmp_path / "dict.km.txt").write_text(text)
    with pytest.raises(ManifestError, match=error):
        folder.labels("train", [])


def test_a_broken_description_is_refused(tmp_path: Path) -> None:
    folder = counted(tmp_path, 50)
    (tmp_path / "targets.json").write_text("{")
    with pytest.raises(TargetError, match="cannot be used"):
        folder.labels("train", SIZES)


def test_the_dictionary_is_fairseqs_and_comes_back(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "")
    loaded = Dictionary.load(str(tmp_path / "dict.km.txt"))
    assert list(loaded.symbols) == [*Dictionary().symbols, *folder.symbols]
    assert dictionary_of(loaded.symbols).indices == loaded.indices
    assert tuple(Dictionary().symbols) == SPECIALS

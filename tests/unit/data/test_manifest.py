from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mtssl.data.audio import write_wav
from fairseq_mtssl.data.manifest import (
    PairRow,
    read_audio_manifest,
    read_pair_manifest,
    write_pair_manifest,
)
from fairseq_mtssl.errors import ImageError, ManifestError

ROWS = [
    PairRow("a/one.wav", 16000, "c1", "x.png", "x", "cat", "ann", "a cat"),
    PairRow("two.wav", 400, "c2", "y.png", "y"),
    PairRow("pack.zip:44:6400", 3200, "c3", "x.png", "x", "cat", "bob", "the cat"),
]
HEADER = "caption_id\timage\timage_id\tlabel\tspeaker\ttext"


def write(folder: Path, tsv: str, pairs: str, split: str = "train") -> Path:
    (folder / f"{split}.tsv").write_text(tsv, encoding="utf-8")
    (folder / f"{split}.pairs").write_text(pairs, encoding="utf-8")
    return folder


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read_pair_manifest(folder, "train")
    return caught.value.errors


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_pair_manifest(tmp_path, "train", ROWS)
    manifest = read_pair_manifest(tmp_path, "train")
    assert len(manifest) == len(manifest.audio) == 3
    assert manifest.audio.files == [row.file for row in ROWS]
    assert manifest.audio.sizes.dtype == np.int64
    assert manifest.audio.sizes.tolist() == [16000, 400, 3200]
    assert manifest.caption_ids == ["c1", "c2", "c3"]
    assert manifest.labels == ["cat", "", "cat"]
    assert manifest.speakers == ["ann", "", "bob"]
    assert manifest.texts == ["a cat", "", "the cat"]


def test_image_ids_keep_the_order_of_first_appearance(tmp_path: Path) -> None:
    write_pair_manifest(tmp_path, "train", [ROWS[1], ROWS[0], ROWS[2]])
    manifest = read_pair_manifest(tmp_path, "train")
    assert manifest.unique_image_ids == ["y", "x"]
    assert manifest.image_path("x") == tmp_path / "images" / "x.png"
    assert manifest.image_label("x") == "cat"


def test_relative_roots_move_with_the_folder(tmp_path: Path) -> None:
    write_pair_manifest(tmp_path / "here", "test", ROWS)
    shutil.move(tmp_path / "here", tmp_path / "there")
    manifest = read_pair_manifest(tmp_path / "there", "test")
    assert manifest.audio.audio_path(0) == str(tmp_path / "there" / "audio" / "a" / "one.wav")
    assert manifest.image_path("y") == tmp_path / "there" / "images" / "y.png"


def test_absolute_roots_stay(tmp_path: Path) -> None:
    roots = {"audio_root": tmp_path / "sounds", "image_root": tmp_path / "pictures"}
    write_pair_manifest(tmp_path / "data", "train", ROWS, **roots)
    manifest = read_pair_manifest(tmp_path / "data", "train")
    assert manifest.audio.root == tmp_path / "sounds"
    assert manifest.image_root == tmp_path / "pictures"


def test_fairseq_reads_the_tsv_unchanged(tmp_path: Path) -> None:
    from fairseq.data import FileAudioDataset

    rows = [PairRow(f"{i}.wav", 400 * i, f"c{i}", "x.png", "x") for i in (1, 2)]
    for row in rows:
        write_wav(tmp_path / "audio" / row.file, np.zeros(row.samples))
    write_pair_manifest(tmp_path, "train", rows, audio_root=tmp_path / "audio")
    dataset = FileAudioDataset(str(tmp_path / "train.tsv"), sample_rate=16000)
    assert dataset.sizes.tolist() == [400, 800]
    assert [len(dataset[i]["source"]) for i in range(2)] == [400, 800]


def test_an_audio_manifest_is_read_alone(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("/sounds\none.flac\t16000\n")
    manifest = read_audio_manifest(tmp_path / "train.tsv")
    assert (manifest.files, manifest.sizes.tolist()) == (["one.flac"], [16000])
    assert manifest.audio_path(0) == "/sounds/one.flac"


@pytest.mark.parametrize("size", ["0", "-3", "1.5", "", "many", "²", " 12"])
def test_a_size_that_is_no_positive_integer_is_refused(tmp_path: Path, size: str) -> None:
    (tmp_path / "train.tsv").write_text(f"/sounds\none.flac\t{size}\n")
    with pytest.raises(ManifestError, match="line 2"):
        read_audio_manifest(tmp_path / "train.tsv")


@pytest.mark.parametrize("text", ["", "\n\n", "/sounds\n", "/sounds"])
def test_an_empty_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.tsv").write_text(text)
    with pytest.raises(ManifestError, match="the manifest is empty"):
        read_audio_manifest(tmp_path / "train.tsv")


def test_an_empty_pair_manifest_is_refused_by_reader_and_writer(tmp_path: Path) -> None:
    write(tmp_path, "audio\n", f"images\n{HEADER}\n")
    assert sum("the manifest is empty" in error for error in faults_of(tmp_path)) == 2
    with pytest.raises(ManifestError, match="the manifest is empty"):
        write_pair_manifest(tmp_path / "other", "train", [])
    assert not (tmp_path / "other").exists()


def test_a_missing_file_names_the_splits_that_are_there(tmp_path: Path) -> None:
    write_pair_manifest(tmp_path, "train", ROWS)
    with pytest.raises(ManifestError, match=r"dev\.tsv is missing[\s\S]*dev\.pairs is missing[\s\S]*'train'"):
        read_pair_manifest(tmp_path, "dev")


def test_two_captions_with_one_id_are_refused_with_both_lines(tmp_path: Path) -> None:
    row = "{}\tx.png\tx\t\t\t\n"
    pairs = f"images\n{HEADER}\n" + "".join(row.format(caption) for caption in ("c1", "c2", "c1"))
    errors = faults_of(write(tmp_path, "audio\na.wav\t1\nb.wav\t1\nc.wav\t1\n", pairs))
    assert len(errors) == 1
    assert "train.pairs line 5: caption id 'c1' is already on line 3" in errors[0]
    with pytest.raises(ManifestError, match="caption id 'c1' is already on line 3"):
        write_pair_manifest(tmp_path, "train", [ROWS[0], ROWS[0]])


def test_an_image_id_with_two_images_or_two_labels_is_refused(tmp_path: Path) -> None:
    pairs = f"images\n{HEADER}\nc1\tx.png\tx\tcat\t\t\nc2\tz.png\tx\tdog\t\t\n"
    errors = faults_of(write(tmp_path, "audio\na.wav\t1\nb.wav\t1\n", pairs))
    assert "image id 'x' has image 'z.png', but 'x.png' on line 3" in errors[0]
    assert "image id 'x' has label 'dog', but 'cat' on line 3" in errors[1]


def test_all_errors_of_both_files_are_reported_at_once(tmp_path: Path) -> None:
    tsv = "audio\na.wav\t1\nb.wav\t-1\nc.wav 3\n"
    pairs = f"images\n{HEADER}\nc1\tx.png\tx\t\t\t\nc2\tx.png\n"
    errors = faults_of(write(tmp_path, tsv, pairs))
    assert [error.split(":")[0] for error in errors] == [
        "train.tsv line 3",
        "train.tsv line 4",
        "train.pairs line 4",
        "train.tsv has 3 rows, train.pairs has 2; row i of each is one caption. "
        "Write both again with one script.",
    ]


def test_a_wrong_header_is_shown_beside_the_right_one(tmp_path: Path) -> None:
    pairs = "images\ncaption\timage\nc1\tx.png\n"
    errors = faults_of(write(tmp_path, "audio\na.wav\t1\n", pairs))
    assert "got columns ['caption', 'image'], wanted ['caption_id', 'image'" in errors[0]


def test_empty_ids_are_refused(tmp_path: Path) -> None:
    pairs = f"images\n{HEADER}\n\tx.png\tx\t\t\t\nc2\ty.png\t\t\t\t\n"
    errors = faults_of(write(tmp_path, "audio\na.wav\t1\nb.wav\t1\n", pairs))
    assert ["empty caption id" in errors[0], "empty image id" in errors[1]] == [True, True]


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    pairs = f"\ufeffimages\n{HEADER}\nc1\tx.png\tx\t\t\tend\n\n"
    write(tmp_path, "", "")
    (tmp_path / "train.tsv").write_bytes(b"audio\r\na.wav\t16\r\n")
    (tmp_path / "train.pairs").write_bytes(pairs.replace("\n", "\r\n").encode())
    manifest = read_pair_manifest(tmp_path, "train")
    assert (manifest.texts, manifest.image_root) == (["end"], tmp_path / "images")


def test_a_file_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(b"audio\n\xff\xfe.wav\t1\n")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_audio_manifest(tmp_path / "train.tsv")


def test_unknown_and_absent_images_are_named(tmp_path: Path) -> None:
    write_pair_manifest(tmp_path, "train", [PairRow("a.wav", 1, "c1", "", "x")])
    manifest = read_pair_manifest(tmp_path, "train")
    with pytest.raises(ImageError, match="no image id 'nine'"):
        manifest.image_path("nine")
    with pytest.raises(ImageError, match="image id 'x' names no image file"):
        manifest.image_path("x")


@pytest.mark.parametrize("mark", ["\t", "\n", "\r"])
def test_the_writer_refuses_what_would_break_a_row(tmp_path: Path, mark: str) -> None:
    with pytest.raises(ManifestError, match="tab or line break"):
        write_pair_manifest(tmp_path, "train", [PairRow("a.wav", 1, "c1", "x.png", "x", text=f"a{mark}b")])
    assert list(tmp_path.iterdir()) == []


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r"), max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(CELL, CELL, CELL.filter(bool)), min_size=1, max_size=5))
def test_any_text_without_tabs_and_line_breaks_survives(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [
        PairRow(f"{i}.wav", i + 1, f"{i}{identity}", "i.png", f"{i}{identity}", speaker=speaker, text=text)
        for i, (speaker, text, identity) in enumerate(cells)
    ]
    write_pair_manifest(folder, "train", rows)
    manifest = read_pair_manifest(folder, "train")
    assert manifest.texts == [row.text for row in rows]
    assert manifest.speakers == [row.speaker for row in rows]
    assert manifest.caption_ids == [row.caption_id for row in rows]

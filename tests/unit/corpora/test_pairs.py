from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.data.audio import read_audio, write_wav
from fairseq_mtssl.data.manifest import read_pair_manifest
from fairseq_mtssl.errors import ManifestError

HEADER = "audio\timage\timage_id\tsplit"


@pytest.fixture
def corpus_dir(tmp_path: Path) -> Path:
    """a.wav … d.wav at 16 kHz, slow.wav at 8 kHz, silence.wav, tiny.wav; 1.png … 4.png."""
    rng = np.random.default_rng(0)
    for i, name in enumerate("abcd"):
        write_wav(tmp_path / "wavs" / f"{name}.wav", rng.normal(0, 0.1, 1000 + i))
    write_wav(tmp_path / "wavs" / "slow.wav", rng.normal(0, 0.1, 500), 8000)
    write_wav(tmp_path / "wavs" / "silence.wav", np.zeros(1000))
    write_wav(tmp_path / "wavs" / "tiny.wav", np.zeros(1))
    (tmp_path / "images").mkdir()
    for number in range(1, 5):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def run(folder: Path, rows: list[str], *options: str, header: str = HEADER) -> Path:
    table = folder / "pairs.tsv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    prepare("pairs", ["--table", str(table), "--out", str(folder / "out"), *options])
    return folder / "out"


def faults_of(folder: Path, rows: list[str], header: str = HEADER) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        run(folder, rows, header=header)
    assert not (folder / "out").exists()
    return caught.value.errors


GOOD = [
    "wavs/a.wav\timages/1.png\tone\ttrain",
    "wavs/b.wav\timages/1.png\tone\ttrain",
    "wavs/c.wav\timages/2.png\ttwo\ttest",
]


def test_a_table_becomes_a_data_folder(corpus_dir: Path) -> None:
    out = run(corpus_dir, GOOD)
    train, test = (read_pair_manifest(out, split) for split in ("train", "test"))
    assert train.caption_ids == ["a", "b"]
    assert train.image_ids == ["one", "one"]
    assert train.audio.sizes.tolist() == [1000, 1001]
    assert test.image_path("two") == corpus_dir / "images" / "2.png"
    assert np.array_equal(read_audio(test.audio.audio_path(0)), read_audio(corpus_dir / "wavs" / "c.wav"))
    assert not (out / "valid.tsv").exists()


def test_optional_columns_in_any_order_are_kept(corpus_dir: Path) -> None:
    header = "text\tsplit\tcaption_id\timage_id\timage\taudio\tspeaker\tlabel"
    rows = ["a big cat\ttrain\tfirst\tone\timages/1.png\twavs/a.wav\tann\tcat"]
    manifest = read_pair_manifest(run(corpus_dir, rows, header=header), "train")
    assert manifest.texts == ["a big cat"]
    assert (manifest.caption_ids, manifest.speakers, manifest.labels) == (["first"], ["ann"], ["cat"])


def test_unknown_columns_are_named(corpus_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(corpus_dir, [GOOD[0] + "\tann"], header=HEADER + "\tspeakers")
    assert "ignored columns: speakers; known: audio" in capsys.readouterr().err


def test_absolute_paths_and_paths_from_the_table_agree(corpus_dir: Path) -> None:
    rows = [f"{corpus_dir}/wavs/a.wav\t{corpus_dir}/wavs/../images/1.png\tone\ttrain", GOOD[1]]
    manifest = read_pair_manifest(run(corpus_dir, rows), "train")
    assert manifest.audio.files == ["a.wav", "b.wav"]
    assert manifest.images == ["1.png", "1.png"]


def test_silence_and_clips_shorter_than_a_frame_are_taken(corpus_dir: Path) -> None:
    rows = ["wavs/silence.wav\timages/1.png\tone\ttrain", "wavs/tiny.wav\timages/2.png\ttwo\ttrain"]
    assert read_pair_manifest(run(corpus_dir, rows), "train").audio.sizes.tolist() == [1000, 1]


def test_every_fault_of_files_is_reported_at_once(corpus_dir: Path) -> None:
    (corpus_dir / "wavs" / "broken.wav").write_bytes(b"no audio")
    (corpus_dir / "images" / "broken.png").write_bytes(b"no image")
    errors = faults_of(
        corpus_dir,
        [
            "wavs/gone.wav\timages/1.png\tone\ttrain",
            "wavs/broken.wav\timages/gone.png\ttwo\ttrain",
            "wavs/slow.wav\timages/broken.png\tthree\ttrain",
            "wavs/a.wav\timages/4.png\tfour\tdev",
            "wavs/b.wav\timages/4.png\ttrain",
            "wavs/c.wav\t\tfive\ttrain",
        ],
    )
    wanted = [
        ("line 5", "got split 'dev', wanted one of ['train', 'valid', 'test']"),
        ("line 6", "got 3 cells, wanted 4"),
        ("line 7", "empty image"),
        ("line 2", "gone.wav: cannot be read"),
        ("line 3", "broken.wav: cannot be read as audio"),
        ("line 3", "gone.png: no such image"),
        ("line 4", "slow.wav: sampled at 8000 Hz, wanted 16000 Hz. Give --resample"),
        ("line 4", "broken.png: cannot be read as an image"),
    ]
    assert len(errors) == len(wanted)
    for error, (line, message) in zip(errors, wanted, strict=True):
        assert error.startswith(line)
        assert message in error


def test_a_broken_file_is_told_once(corpus_dir: Path) -> None:
    rows = [f"wavs/{name}.wav\timages/gone.png\tone\ttrain" for name in "abc"]
    assert len(faults_of(corpus_dir, rows)) == 1


def test_missing_columns_are_all_named(corpus_dir: Path) -> None:
    errors = faults_of(corpus_dir, ["a\tb"], header="audio,image\tsplit\tsplit")
    assert "no column 'audio'" in errors[0]
    assert "no column 'image'" in errors[1]
    assert "no column 'image_id'" in errors[2]
    assert "two columns 'split'" in errors[3]
    assert "got ['audio,image', 'split', 'split']" in errors[4]


def test_an_empty_table_is_refused(corpus_dir: Path) -> None:
    assert "the table is empty" in faults_of(corpus_dir, [])[0]


def test_two_captions_with_one_id_are_refused(corpus_dir: Path) -> None:
    write_wav(corpus_dir / "more" / "a.wav", np.zeros(500))
    errors = faults_of(corpus_dir, [GOOD[0], "more/a.wav\timages/2.png\ttwo\ttrain"])
    assert "line 3: caption id 'a' is already on line 2" in errors[0]
    assert "Add a column caption_id" in errors[1]


def test_one_image_id_with_two_images_and_one_image_with_two_ids_are_refused(corpus_dir: Path) -> None:
    rows = [GOOD[0], "wavs/b.wav\timages/2.png\tone\ttrain", "wavs/c.wav\timages/1.png\tother\ttrain"]
    errors = faults_of(corpus_dir, rows)
    assert "image id 'one' has image" in errors[0]
    assert "1.png has id 'other', but 'one' on line 2" in errors[1]


def test_a_leak_between_splits_is_refused(corpus_dir: Path) -> None:
    header = HEADER + "\tcaption_id"
    rows = [
        "wavs/a.wav\timages/1.png\tone\ttrain\tc1",
        "wavs/b.wav\timages/1.png\tone\ttest\tc2",
        "wavs/a.wav\timages/2.png\ttwo\tvalid\tc3",
    ]
    errors = faults_of(corpus_dir, rows, header=header)
    assert "line 3: image id 'one' is in split test, but in train on line 2" in errors[0]
    assert "a.wav' is in split valid, but in train on line 2" in errors[1]


def test_resampled_copies_are_written_for_other_rates_only(corpus_dir: Path) -> None:
    rows = [GOOD[0], "wavs/slow.wav\timages/2.png\ttwo\ttrain"]
    manifest = read_pair_manifest(run(corpus_dir, rows, "--resample"), "train")
    assert manifest.audio.audio_path(0) == str(corpus_dir / "wavs" / "a.wav")
    assert manifest.audio.audio_path(1) == str(corpus_dir / "out" / "audio" / "000003_slow.wav")
    assert len(read_audio(manifest.audio.audio_path(1))) == manifest.audio.sizes[1] == 1000


def test_an_earlier_split_does_not_linger(corpus_dir: Path) -> None:
    run(corpus_dir, GOOD)
    out = run(corpus_dir, GOOD[:2])
    assert not (out / "test.pairs").exists()


def test_a_table_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        prepare("pairs", ["--table", str(tmp_path / "gone.tsv"), "--out", str(tmp_path / "out")])

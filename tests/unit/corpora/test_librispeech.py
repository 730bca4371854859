from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ConfigError, ManifestError

PARTS = (
    *("train-clean-100", "train-clean-360", "train-other-500"),
    *("dev-clean", "dev-other", "test-clean", "test-other"),
)


def chapter(part: Path, speaker: int, number: int, count: int = 2, samples: int = 800) -> Path:
    """A chapter of flac files, each 1 sample longer than the one before, with its transcripts."""
    folder = part / str(speaker) / str(number)
    folder.mkdir(parents=True)
    names = [f"{speaker}-{number}-{utterance:04d}" for utterance in range(count)]
    for utterance, name in enumerate(names):
        wav = np.zeros(samples + utterance, dtype=np.int16)
        soundfile.write(folder / f"{name}.flac", wav, 16000, subtype="PCM_16")
    lines = "".join(f"{name} SPOKEN IN {part.name.upper()} {name}\n" for name in names)
    (folder / f"{speaker}-{number}.trans.txt").write_text(lines)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """LibriSpeech with one chapter of two utterances in each part, two in the first."""
    for speaker, part in enumerate(PARTS, start=10):
        chapter(tmp_path / "LibriSpeech" / part, speaker, 100 + speaker)
    chapter(tmp_path / "LibriSpeech" / PARTS[0], 9, 7)
    return tmp_path / "LibriSpeech"


@pytest.fixture
def finetuning(tmp_path: Path) -> Path:
    """Libri-light's folder: six folds and nine hours, each clean and other."""
    folders = [f"1h/{fold}" for fold in range(6)] + ["9h"]
    for number, folder in enumerate(folders):
        for offset, kind in enumerate(("clean", "other")):
            chapter(
                tmp_path / "librispeech_finetuning" / folder / kind, 200 + 2 * number + offset, 5, count=1
            )
    return tmp_path / "librispeech_finetuning"


def run(root: Path, *options: str) -> Path:
    out = root.parent / "out"
    prepare("librispeech", ["--root", str(root), "--out", str(out), *options])
    return out


def rows(out: Path, split: str) -> list[tuple[str, int, str]]:
    manifest = read_audio_manifest(out / f"{split}.tsv")
    texts = (out / f"{split}.wrd").read_text().splitlines()
    return list(zip(manifest.files, manifest.sizes.tolist(), texts, strict=True))


def test_transcripts_stand_row_by_row_beside_manifests_in_the_order_of_paths(root, capsys) -> None:
    out = run(root)
    assert rows(out, "train_clean_100") == [
        ("train-clean-100/10/110/10-110-0000.flac", 800, "SPOKEN IN TRAIN-CLEAN-100 10-110-0000"),
        ("train-clean-100/10/110/10-110-0001.flac", 801, "SPOKEN IN TRAIN-CLEAN-100 10-110-0001"),
        ("train-clean-100/9/7/9-7-0000.flac", 800, "SPOKEN IN TRAIN-CLEAN-100 9-7-0000"),
        ("train-clean-100/9/7/9-7-0001.flac", 801, "SPOKEN IN TRAIN-CLEAN-100 9-7-0001"),
    ]
    assert read_audio_manifest(out / "train.tsv").root == root
    assert "train: 8 utterances, 0.00 h" in capsys.readouterr().out


def test_splits_are_made_of_the_parts_named(root) -> None:
    out = run(root)
    parts = [
        [row[0].split("/")[0] for row in rows(out, split)]
        for split in ("train", "valid", "dev_other", "test_clean")
    ]
    assert list(dict.fromkeys(parts[0])) == list(PARTS[:3])
    assert list(dict.fromkeys(parts[1])) == ["dev-clean", "dev-other"]
    assert set(parts[2]) == {"dev-other"} and set(parts[3]) == {"test-clean"}
    written = sorted(path.stem for path in out.glob("*.tsv"))
    assert written == [
        *("dev_clean", "dev_other", "test_clean", "test_other"),
        *("train", "train_clean_100", "valid"),
    ]
    counts = json.loads((out / "corpus.json").read_text())["counts"]
    assert counts["train"]["utterances"] == 8


def test_parts_can_be_left_out(root) -> None:
    out = run(root, "--train", "train-clean-360", "--valid", "dev-other", "--test", "")
    assert sorted(path.stem for path in out.glob("*.tsv")) == ["dev_other", "train", "valid"]
    with pytest.raises(ConfigError, match="named twice"):
        run(root, "--train", "dev-clean,dev-clean")


def test_the_limited_subsets_are_nested_as_librilight_says(root, finetuning) -> None:
    out = run(root, "--finetuning", str(finetuning), "--fold", "3")
    ten_minutes, hour, ten_hours = (
        [row[0] for row in rows(out, split)] for split in ("train_10m", "train_1h", "train_10h")
    )
    assert ten_minutes == ["1h/3/clean/206/5/206-5-0000.flac", "1h/3/other/207/5/207-5-0000.flac"]
    assert len(hour) == 12 and set(ten_minutes) < set(hour)
    assert ten_hours[:12] == hour
    assert ten_hours[12:] == ["9h/clean/212/5/212-5-0000.flac", "9h/other/213/5/213-5-0000.flac"]
    assert read_audio_manifest(out / "train_10h.tsv").root == finetuning


def test_a_missing_fold_is_a_fault(root, finetuning) -> None:
    (finetuning / "1h" / "4").rename(finetuning / "1h" / "7")
    with pytest.raises(ManifestError) as caught:
        run(root, "--finetuning", str(finetuning), "--partial")
    assert [error.split(".")[0] for error in caught.value.errors[:2]] == [
        "no folder 1h/4/clean",
        "no folder 1h/4/other",
    ]


def break_some(root: Path) -> None:
    """A recording without transcript, a transcript without recording, no audio, another rate."""
    folder = root / "dev-clean" / "13" / "113"
    soundfile.write(folder / "13-113-0002.flac", np.zeros(100, dtype=np.int16), 16000)
    (folder / "13-113-0001.flac").unlink()
    (root / "test-clean" / "15" / "115" / "15-115-0000.flac").write_bytes(b"no flac")
    soundfile.write(
        root / "test-other" / "16" / "116" / "16-116-0000.flac", np.zeros(100, dtype=np.int16), 8000
    )


def test_all_faults_are_told_at_once_and_nothing_is_written(root) -> None:
    break_some(root)
    (root / "train-clean-360").rename(root / "elsewhere")
    lines = root / "dev-other" / "14" / "114" / "14-114.trans.txt"
    lines.write_text(lines.read_text() + "14-114-0001 AGAIN\n14-114-0009\n")
    with pytest.raises(ManifestError) as caught:
        run(root)
    text = "\n".join(caught.value.errors)
    for told in (
        "no folder train-clean-360",
        "14-114.trans.txt line 3: 14-114-0001 is there already",
        "14-114.trans.txt line 4: got '14-114-0009', wanted <utterance> <TEXT>",
        "13-113-0002.flac: no transcript",
        "13-113-0001.flac: a transcript, but no such recording",
        "15-115-0000.flac: cannot be read as audio",
        "16-116-0000.flac: sampled at 8000 Hz, wanted 16000 Hz",
        "--partial",
    ):
        assert told in text
    assert len(caught.value.errors) == 8
    assert not (root.parent / "out").exists()


def test_partial_leaves_faulty_recordings_out_and_counts_them(root, capsys) -> None:
    break_some(root)
    out = run(root, "--partial")
    assert [row[0] for row in rows(out, "dev_clean")] == ["dev-clean/13/113/13-113-0000.flac"]
    assert "skipped 4 recordings or transcripts" in capsys.readouterr().err


def test_counts_other_than_the_published_are_told(root, capsys) -> None:
    run(root)
    assert "dev-clean: 2 utterances, published are 2703" in capsys.readouterr().err


def test_the_same_folder_gives_the_same_bytes(root) -> None:
    first = {path.name: path.read_bytes() for path in run(root).iterdir()}
    assert first == {path.name: path.read_bytes() for path in run(root).iterdir()}

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.data.audio import read_audio, write_wav
from fairseq_mtssl.data.manifest import PairManifest, read_pair_manifest
from fairseq_mtssl.errors import ConfigError, ManifestError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "fsdd" / "recordings"
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers, takes 0-12 of three digits, 8 kHz."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for digit in (0, 3, 9):
        for speaker in ("ann", "bob"):
            for take in range(13):
                wav = rng.normal(0, 0.1, 800 + take).astype(np.float32)
                write_wav(folder / f"{digit}_{speaker}_{take}.wav", wav, 8000)
    return folder


def run(recordings: Path, out: Path, *options: str) -> dict[str, PairManifest]:
    prepare("spoken_digits", ["--recordings", str(recordings), "--out", str(out), *options])
    return {split: read_pair_manifest(out, split) for split in SPLITS}


@pytest.fixture(scope="session")
def made(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits")
    run(recordings, out)
    return out


def takes_of(manifest: PairManifest) -> set[int]:
    return {int(caption.split("_")[2]) for caption in manifest.caption_ids}


def test_takes_below_five_are_the_test_set(made: Path) -> None:
    manifests = {split: read_pair_manifest(made, split) for split in SPLITS}
    assert {split: takes_of(manifests[split]) for split in SPLITS} == {
        "test": set(range(5)),
        "valid": set(range(5, 10)),
        "train": {10, 11, 12},
    }
    assert {split: len(manifests[split]) for split in SPLITS} == {"test": 30, "valid": 30, "train": 18}
    assert set(manifests["test"].speakers) == {"ann", "bob"}


def test_held_out_speakers_are_the_test_set_with_all_their_takes(recordings: Path, tmp_path: Path) -> None:
    manifests = run(recordings, tmp_path, "--test-speakers", "bob")
    assert set(manifests["test"].speakers) == {"bob"}
    assert takes_of(manifests["test"]) == set(range(13))
    assert set(manifests["train"].speakers) == set(manifests["valid"].speakers) == {"ann"}
    assert takes_of(manifests["valid"]) == set(range(5, 10))
    assert takes_of(manifests["train"]) == {10, 11, 12}


def test_no_image_and_no_take_is_in_two_splits(made: Path) -> None:
    manifests = [read_pair_manifest(made, split) for split in SPLITS]
    images = [image for manifest in manifests for image in manifest.unique_image_ids]
    captions = [caption for manifest in manifests for caption in manifest.caption_ids]
    assert len(images) == len(set(images))
    assert len(captions) == len(set(captions)) == 78


def test_the_label_is_the_digit_of_both_recording_and_image(made: Path) -> None:
    targets = load_digits().target
    for split in SPLITS:
        manifest = read_pair_manifest(made, split)
        for caption, label, image_id in zip(
            manifest.caption_ids, manifest.labels, manifest.image_ids, strict=True
        ):
            assert caption[0] == label == str(targets[int(image_id.split("_")[1])])


def test_images_are_those_of_scikit_learn_scaled_up(made: Path) -> None:
    manifest = read_pair_manifest(made, "test")
    image_id = manifest.image_ids[0]
    with Image.open(manifest.image_path(image_id)) as image:
        assert image.size == (32, 32)
        small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=float)
    wanted = load_digits().images[int(image_id.split("_")[1])]
    assert np.corrcoef(small.ravel(), wanted.ravel())[0, 1] > 0.95


def test_audio_is_resampled_to_16_khz(made: Path, recordings: Path) -> None:
    manifest = read_pair_manifest(made, "train")
    for row, caption in enumerate(manifest.caption_ids):
        wav = read_audio(manifest.audio.audio_path(row))
        assert len(wav) == manifest.audio.sizes[row] == 2 * (800 + int(caption.split("_")[2]))


def test_the_same_request_makes_the_same_corpus(recordings: Path, made: Path, tmp_path: Path) -> None:
    run(recordings, tmp_path / "again")
    run(recordings, tmp_path / "other", "--seed", "1")
    first, again, other = (
        json.loads((folder / "corpus.json").read_text())
        for folder in (made, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert first["sha256"] != other["sha256"]


def test_a_second_run_does_nothing_and_an_interrupted_one_is_redone(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recordings, tmp_path)
    record = (tmp_path / "corpus.json").read_text()
    take = tmp_path / "audio" / "0_ann_0.wav"
    before = take.stat().st_mtime_ns
    run(recordings, tmp_path)
    assert "made already" in capsys.readouterr().out
    assert take.stat().st_mtime_ns == before
    (tmp_path / "corpus.json").unlink()  # as an interrupted run leaves it
    take.write_bytes(b"half a file")
    run(recordings, tmp_path)
    assert (tmp_path / "corpus.json").read_text() == record


def test_changed_recordings_are_noticed(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings, tmp_path / "recordings")
    run(tmp_path / "recordings", tmp_path / "out")
    write_wav(tmp_path / "recordings" / "0_ann_0.wav", np.full(900, 0.5), 8000)
    manifests = run(tmp_path / "recordings", tmp_path / "out")
    assert manifests["test"].audio.sizes[0] == 1800


def test_foreign_and_unreadable_files_are_skipped_counted_and_named(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(recordings, tmp_path / "recordings")
    shutil.copy(folder / "0_ann_0.wav", folder / "noise.wav")
    shutil.copy(folder / "0_ann_0.wav", folder / "10_ann_0.wav")
    (folder / "0_ann_0.wav").write_bytes(b"broken")
    manifests = run(folder, tmp_path / "out")
    errors = capsys.readouterr().err
    assert "skipped 2 wavs not named {digit}_{speaker}_{take}.wav: 10_ann_0.wav, noise.wav" in errors
    assert "skipped 1 takes that cannot be read" in errors
    assert "0_ann_0.wav" in errors
    assert len(manifests["test"]) == 29


def test_an_unknown_test_speaker_is_answered_with_the_known(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got \['eve'\], wanted some of \['ann', 'bob'\]"):
        run(recordings, tmp_path, "--test-speakers", "ann,eve")
    assert list(tmp_path.iterdir()) == []


def test_holding_out_every_speaker_is_refused(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no takes for train, valid"):
        run(recordings, tmp_path, "--test-speakers", "ann,bob")


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"\{take\}\.wav \(0 other wavs\)"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(ManifestError, match="no such folder"):
        run(tmp_path / "gone", tmp_path / "out")


@pytest.mark.skipif(not REAL.is_dir(), reason="no Free Spoken Digit recordings beside the repository")
def test_real_recordings_become_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for path in REAL.glob("[07]_*_*.wav"):
        if int(path.stem.split("_")[2]) < 12:
            (folder / path.name).symlink_to(path)
    manifests = run(folder, tmp_path / "out")
    speakers = set(manifests["test"].speakers)
    assert {split: len(manifests[split]) for split in SPLITS} == {
        "test": 10 * len(speakers),
        "valid": 10 * len(speakers),
        "train": 4 * len(speakers),
    }

"""Crops and their labels stay aligned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fairseq_mtssl.data.labelled_clips import LabelledClipDataset
from fairseq_mtssl.data.labels import FrameLabels
from fairseq_mtssl.data.manifest import AudioManifest

CONV = [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2
HOP, WINDOW = 320, 400


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> AudioManifest:
    """Ramps: sample s of every file is s, so that a crop tells where it was taken."""
    folder = tmp_path_factory.mktemp("ramps")
    sizes = [40_000, 20_000, 9_000, 40_123]
    for row, size in enumerate(sizes):
        soundfile.write(
            folder / f"{row}.wav", np.arange(size, dtype=np.float32) / 65536, 16_000, subtype="FLOAT"
        )
    files = [f"{row}.wav" for row in range(len(sizes))]
    return AudioManifest(folder / "train.tsv", folder, files, np.array(sizes))


def numbered(manifest: AudioManifest, per_frame: int = 1) -> FrameLabels:
    """The label of an utterance's n-th place is n + 10."""
    counts = [per_frame * ((size - WINDOW) // HOP + 1) for size in manifest.sizes]
    ends = np.concatenate([[0], np.cumsum(counts)])
    values = np.concatenate([np.arange(count) for count in counts])
    return FrameLabels(values, ends, np.arange(max(counts)) + 10, float(per_frame))


def dataset(manifest: AudioManifest, training: bool = True, **changes: object) -> LabelledClipDataset:
    options = {"max_samples": 10_000, "training": training, "seed": 3, **changes}
    labels = [numbered(manifest), numbered(manifest, per_frame=2)]
    rows = np.array([0, 1, 3])
    return LabelledClipDataset(manifest, rows, labels, CONV, **options)  # type: ignore[arg-type]


def start_of(clips: LabelledClipDataset, index: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("fairseq_mtssl.data.labelled_clips.normalise", lambda wav: wav)
    return round(float(clips[index]["clip"][0]) * 65536)


def test_the_labels_of_a_crop_begin_at_the_frame_where_the_audio_begins(
    manifest: AudioManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = dataset(manifest)
    starts = set()
    for epoch in range(1, 9):
        clips.set_epoch(epoch)
        for index in range(3):
            start = start_of(clips, index, monkeypatch)
            assert start % HOP == 0 and start + 10_000 <= clips.audio.sizes[index]
            one, two = clips[index]["labels"]
            first, frames = start // HOP, (10_000 - WINDOW) // HOP + 1
            assert one.tolist() == list(range(first + 10, first + frames + 10))
            assert two.tolist() == list(range(2 * first + 10, 2 * (first + frames) + 10, 2))
            starts.add((index, start))
    assert len(starts) > 15  # of 24 draws


def test_the_last_possible_crop_is_drawn_too(manifest: AudioManifest) -> None:
    clips = dataset(manifest, max_samples=40_000 - HOP - 5)
    firsts = set()
    for epoch in range(1, 30):
        clips.set_epoch(epoch)
        firsts.add(clips.first_frame(0))
    assert firsts == {0, 1}


def test_crops_follow_from_seed_epoch_and_row_alone(manifest: AudioManifest) -> None:
    a, b = dataset(manifest), dataset(manifest)
    a.set_epoch(4), b.set_epoch(4)
    _ = [b[index] for index in (2, 0, 1, 1)]
    assert [a.first_frame(i) for i in range(3)] == [b.first_frame(i) for i in range(3)]
    other = dataset(manifest, seed=4)
    other.set_epoch(4)
    assert [a.first_frame(i) for i in range(3)] != [other.first_frame(i) for i in range(3)]


def test_evaluation_crops_at_the_start(manifest: AudioManifest) -> None:
    clips = dataset(manifest, training=False)
    assert [clips.first_frame(index) for index in range(3)] == [0, 0, 0]
    assert clips[2]["labels"][0][0] == 10


def test_a_clip_shorter_than_the_crop_is_taken_whole(manifest: AudioManifest) -> None:
    clips = dataset(manifest, max_samples=30_000)
    assert len(clips[1]["clip"]) == 20_000
    assert len(clips[1]["labels"][0]) == (20_000 - WINDOW) // HOP + 1


def test_a_batch_pads_labels_with_the_ignored_one(manifest: AudioManifest) -> None:
    clips = dataset(manifest, max_samples=30_000)
    batch = clips.collater([clips[0], clips[1]])
    one = batch["labels"][0]
    frames = (batch["net_input"]["lengths"] - WINDOW) // HOP + 1
    assert one.shape == (2, int(frames.max()))
    assert (one[1, int(frames[1]) :] == 1).all() and (one[1, : int(frames[1])] > 1).all()


def test_the_file_that_ends_before_its_crop_is_skipped_and_named(
    manifest: AudioManifest, caplog: pytest.LogCaptureFixture
) -> None:
    lying = AudioManifest(manifest.path, manifest.root, manifest.files, manifest.sizes * 10)
    clips = dataset(lying)
    assert clips[1]["clip"] is None
    assert "1.wav: gives 0 samples from sample" in caplog.text
    assert clips.collater([clips[1]]) == {}


def test_a_data_worker_computes_in_one_thread_whatever_its_parent_has(manifest: AudioManifest) -> None:
    def threads(_: object) -> int:
        return torch.get_num_threads()

    parent = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loader = torch.utils.data.DataLoader(dataset(manifest), num_workers=1, collate_fn=threads)
        assert set(loader) == {1} and threads(None) == 3
    finally:
        torch.set_num_threads(parent)


def test_training_keeps_like_lengths_together_in_another_order_each_epoch() -> None:
    sizes = np.random.default_rng(0).integers(20_000, 100_000, size=300)
    manifest = AudioManifest(Path("train.tsv"), Path("."), [str(i) for i in range(300)], sizes)
    clips = LabelledClipDataset(
        manifest, np.arange(300), [], CONV, max_samples=320_000, training=True, seed=1
    )
    first = clips.ordered_indices()
    assert sorted(first.tolist()) == list(range(300))
    assert np.all(np.diff(sizes[first] // 4_000) <= 0)
    clips.set_epoch(2)
    assert not np.array_equal(first, clips.ordered_indices())

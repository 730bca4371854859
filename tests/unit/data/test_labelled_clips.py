"""The labels of a crop belong to the frames of the crop, and batches have few shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_encoder import WAVEFORM_LAYERS

from fairseq_mtssl.data.clips import WIDTH_STEP, ClipOptions
from fairseq_mtssl.data.labelled_clips import LabelledClipDataset
from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import SPECIAL_SYMBOLS
from fairseq_mtssl.labels.folder import Labels
from fairseq_mtssl.labels.km_files import LabelFile

HOP, WINDOW = 320, 400


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> AudioManifest:
    """Ramps: sample s of every file has the value s, so that a crop shows where it begins."""
    folder = tmp_path_factory.mktemp("ramps")
    sizes = [40_000, 20_000, 9_000, 40_123]
    for row, size in enumerate(sizes):
        soundfile.write(
            folder / f"{row}.wav", np.arange(size, dtype=np.float32) / 65536, 16_000, subtype="FLOAT"
        )
    files = [f"{row}.wav" for row in range(len(sizes))]
    return AudioManifest(folder / "train.tsv", folder, files, np.array(sizes))


def numbered(manifest: AudioManifest, per_frame: int = 1) -> Labels:
    """The label of an utterance's n-th place is n + 10."""
    counts = [per_frame * ((size - WINDOW) // HOP + 1) for size in manifest.sizes]
    ends = np.concatenate([[0], np.cumsum(counts)])
    values = np.concatenate([np.arange(count) for count in counts])
    numbers = np.arange(max(counts)) + 10 - SPECIAL_SYMBOLS
    return Labels(LabelFile([], values, ends, True), numbers, len(numbers), 50.0, float(per_frame))


def dataset(manifest: AudioManifest, training: bool = True, **changes: object) -> LabelledClipDataset:
    options: dict[str, Any] = {"max_samples": 10_000, "training": training, "seed": 3, **changes}
    labels = [numbered(manifest), numbered(manifest, per_frame=2)]
    rows = np.array([0, 1, 3])
    return LabelledClipDataset(manifest, rows, labels, WAVEFORM_LAYERS, ClipOptions(**options))


def start_of(clips: LabelledClipDataset, index: int) -> int:
    return round(float(clips[index]["clip"][0]) * 65536)


def test_the_labels_of_a_crop_begin_at_the_frame_where_the_audio_begins(manifest: AudioManifest) -> None:
    clips = dataset(manifest, normalised=False)  # the samples themselves say where a crop begins
    starts = set()
    for epoch in range(1, 9):
        clips.set_epoch(epoch)
        for index in range(3):
            start = start_of(clips, index)
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


def test_a_batch_pads_labels_with_the_ignored_label(manifest: AudioManifest) -> None:
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


SIZES = np.random.default_rng(0).integers(20_000, 100_000, size=300)


def of_sizes(sizes: np.ndarray, **options: Any) -> LabelledClipDataset:
    """A dataset of clips of these sizes, without files."""
    rows = np.arange(len(sizes))
    manifest = AudioManifest(Path("train.tsv"), Path("."), [str(row) for row in rows], sizes)
    given = {"max_samples": 320_000, "training": True, "seed": 1, **options}
    return LabelledClipDataset(manifest, rows, [], WAVEFORM_LAYERS, ClipOptions(**given))


def test_training_keeps_similar_lengths_together_in_another_order_each_epoch() -> None:
    sizes, clips = SIZES, of_sizes(SIZES)
    first = clips.ordered_indices()
    assert sorted(first.tolist()) == list(range(300))
    assert np.all(np.diff(sizes[first] // 4_000) <= 0)
    clips.set_epoch(2)
    assert not np.array_equal(first, clips.ordered_indices())


def shapes(clips: LabelledClipDataset, **limits: int) -> list[tuple[int, int]]:
    """Return the shapes (rows, width) of an epoch's collated batches."""
    batch_shapes = []
    for rows in clips.batch_by_size(clips.ordered_indices(), **limits):
        speech = clips.collate_speech([torch.ones(clips.size(row)) for row in rows])
        batch_shapes.append(tuple(speech["source"].shape))
    return batch_shapes


@pytest.mark.parametrize("longest", [320_000, 80_000, 79_999])
def test_with_buckets_batches_of_all_epochs_have_few_shapes_and_keep_the_limit(longest: int) -> None:
    many = np.tile(SIZES, 7)  # buckets end within the 0.25 s in which the order is random
    clips, seen = of_sizes(many, num_buckets=4, max_samples=longest), set()
    for epoch in range(1, 6):
        clips.set_epoch(epoch)
        batches = shapes(clips, max_tokens=700_000)
        assert sum(rows for rows, _ in batches) == len(many)
        assert all(rows == 700_000 // width for rows, width in batches[:-1])
        seen |= set(batches)
    widths = {width for _, width in seen}
    # a quarter of the clips is longer than the crop; one shape per bucket, and those of the last batches
    assert len(widths) == (4 if longest > SIZES.max() else 3) and len(seen) <= len(widths) + 1
    assert max(widths) == min(longest, SIZES.max())
    assert len(set(shapes(of_sizes(SIZES, max_samples=longest), max_tokens=700_000))) > 10


def test_with_a_number_of_sentences_the_rows_are_that_number_in_each_bucket() -> None:
    batches = shapes(of_sizes(SIZES, num_buckets=3), max_sentences=8)
    assert {rows for rows, _ in batches[:-1]} == {8} and len(set(batches[:-1])) == 3


def test_buckets_hold_similar_numbers_of_clips_and_pad_to_their_longest() -> None:
    clips = of_sizes(SIZES, num_buckets=5)
    widths, counts = np.unique(clips.num_tokens_vec(np.arange(300)), return_counts=True)
    assert np.array_equal(widths, clips.widths) and widths[-1] == SIZES.max()
    # 60 in each, except for clips that rounding up to WIDTH_STEP moves
    assert counts.sum() == 300 and counts.min() > 45 and counts.max() < 75
    assert np.all(widths[:-1] % WIDTH_STEP == 0)
    assert np.all(clips.num_tokens_vec(np.arange(300)) >= SIZES)


def test_buckets_are_at_most_as_many_as_there_are_widths_and_none_in_evaluation() -> None:
    assert of_sizes(np.full(9, 50_000), num_buckets=4).widths.tolist() == [50_000]
    assert of_sizes(np.array([20_000]), num_buckets=4).widths.tolist() == [20_000]
    evaluation = of_sizes(SIZES, num_buckets=4, training=False)
    assert len(evaluation.widths) == 0 and evaluation.num_tokens(3) == SIZES[3]
    assert shapes(evaluation, max_sentences=1)[3] == (1, SIZES[3])


def test_a_negative_number_of_buckets_is_refused() -> None:
    with pytest.raises(ConfigError, match="task.num_batch_buckets: got -1, wanted 0 or more"):
        of_sizes(SIZES, num_buckets=-1)

"""The clip dataset: order and augmentation are drawn from (seed, epoch, row) alone, and files are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_corpora import make_pairs

from fairseq_mtssl.data.clips import WIDTH_STEP, ClipDataset, ClipOptions, collate_speech
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.errors import AudioError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> AudioManifest:
    folder = tmp_path_factory.mktemp("clips")
    make_pairs(folder, "train", 12)
    return read_audio_manifest(folder / "train.tsv")


def dataset(manifest: AudioManifest, **options: Any) -> ClipDataset:
    return ClipDataset(manifest, ClipOptions(**{"max_samples": 7000, "training": True, "seed": 3, **options}))


def test_every_epoch_has_an_order_of_its_own_that_any_process_repeats(manifest: AudioManifest) -> None:
    one, two = dataset(manifest), dataset(manifest)
    first = one.ordered_indices()
    assert np.array_equal(first, two.ordered_indices())
    one.set_epoch(2)
    assert not np.array_equal(first, one.ordered_indices())
    assert sorted(one.ordered_indices()) == list(range(12))
    assert np.array_equal(dataset(manifest, training=False).ordered_indices(), np.arange(12))


def test_pools_are_sorted_by_length_and_lose_no_row(manifest: AudioManifest) -> None:
    pooled = dataset(manifest, length_pool=6, max_samples=16_000)
    rows = pooled.ordered_indices()
    assert sorted(rows) == list(range(12))
    for start in (0, 6):
        sizes = pooled.sizes[rows[start : start + 6]]
        assert (np.diff(sizes) >= 0).all()
    free = dataset(manifest, max_samples=16_000).ordered_indices()
    assert set(free[:6]) == set(rows[:6])


def test_a_clip_is_cut_normalised_and_the_same_in_evaluation(manifest: AudioManifest) -> None:
    clip = dataset(manifest, training=False, speed_perturb=0.3, noise_snr_db=(0, 5)).caption(1)
    assert clip.shape == (7000,) and clip.dtype == torch.float32
    assert abs(float(clip.mean())) < 1e-4 and abs(float(clip.std()) - 1) < 1e-2
    again = dataset(manifest, training=False).caption(1)
    assert torch.equal(clip, again)


def test_speed_and_noise_change_with_the_epoch_and_come_back_with_it(manifest: AudioManifest) -> None:
    varied = dataset(manifest, speed_perturb=0.2, noise_snr_db=(10.0, 20.0), max_samples=16_000)
    first = varied.caption(0)
    varied.set_epoch(2)
    second = varied.caption(0)
    varied.set_epoch(1)
    assert torch.equal(first, varied.caption(0))
    assert first.shape != second.shape or not torch.equal(first, second)
    original = int(manifest.sizes[0])
    assert abs(first.numel() - original) <= 0.26 * original and first.numel() != original


def test_noise_has_the_signal_to_noise_ratio_asked_for(manifest: AudioManifest) -> None:
    clean = dataset(manifest).caption(0)
    noisy = dataset(manifest, noise_snr_db=(10.0, 10.0)).caption(0)
    # both have unit variance, so their correlation c gives the signal-to-noise ratio c² / (1 − c²)
    c = float((clean * noisy).mean())
    assert 10 * np.log10(c**2 / (1 - c**2)) == pytest.approx(10.0, abs=0.5)


def test_an_unreadable_file_is_skipped_in_training_and_an_error_in_evaluation(tmp_path: Path) -> None:
    make_pairs(tmp_path, "train", 3)
    (tmp_path / "audio" / "train_1.wav").write_bytes(b"no audio")
    manifest = read_audio_manifest(tmp_path / "train.tsv")
    training = dataset(manifest)
    batch = training.collater([training[row] for row in range(3)])
    assert batch["id"].tolist() == [0, 2] and training.skipped == 1
    assert training.collater([training[1]]) == {}
    with pytest.raises(AudioError, match="train_1.wav"):
        dataset(manifest, training=False)[1]


def test_collation_pads_with_zeros_and_keeps_the_lengths() -> None:
    batch = collate_speech([torch.ones(3), torch.ones(5)])
    assert batch["source"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert batch["lengths"].tolist() == [3, 5]


def test_training_batches_come_in_few_widths_and_evaluation_adds_no_padding(manifest: AudioManifest) -> None:
    training, evaluation = dataset(manifest, max_samples=9000), dataset(manifest, training=False)
    clips = [torch.ones(3201), torch.ones(40)]
    assert training.collate_speech(clips)["source"].shape == (2, 6400)
    assert training.collate_speech([torch.ones(8999)])["source"].shape == (1, 9000)
    assert evaluation.collate_speech(clips)["source"].shape == (2, 3201)


def test_the_widest_bucket_holds_clips_that_are_played_slower(manifest: AudioManifest) -> None:
    slow = dataset(manifest, num_buckets=2, speed_perturb=0.2, max_samples=100_000)
    longest = int(manifest.sizes.max())
    assert slow.widths[-1] == -(-longest // 0.8)
    assert slow.collate_speech([torch.ones(int(1.24 * longest))])["source"].shape[1] == slow.widths[-1]
    beyond = slow.collate_speech([torch.ones(2 * longest)])["source"].shape[1]
    assert beyond >= 2 * longest and beyond % WIDTH_STEP == 0

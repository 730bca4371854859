from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from fairseq_mtssl.data.audio import normalise, read_audio, read_header, read_native, write_wav
from fairseq_mtssl.errors import AudioError

HALF_LSB = 0.5 / 32768  # the error of rounding to 16 bits


def tone(samples: int, rate_hz: int = 16000, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz)).astype(np.float32)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_wav(tmp_path / "clip.wav", tone(5000))
    return tmp_path / "clip.wav"


def with_data_size(path: Path, size: int) -> Path:
    """Return the wav with another size in the header of its data chunk."""
    raw = path.read_bytes()
    at = raw.index(b"data") + 4
    wrong = path.with_name("wrong.wav")
    wrong.write_bytes(raw[:at] + struct.pack("<I", size) + raw[at + 4 :])
    return wrong


def test_samples_are_read_as_float_in_minus_one_to_one(clip: Path) -> None:
    wav = read_audio(clip)
    assert wav.dtype == np.float32
    assert np.abs(wav - tone(5000)).max() <= HALF_LSB


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16000)
    assert read_audio(tmp_path / "stereo.wav").tolist() == [0.125] * 100


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.wav"])
def test_other_formats_are_read(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(16000), 16000)
    assert read_audio(tmp_path / name).shape == (16000,)


def test_only_the_first_samples_are_read(clip: Path) -> None:
    assert np.array_equal(read_audio(clip, max_samples=1234), read_audio(clip)[:1234])
    assert read_audio(clip, max_samples=9999).shape == (5000,)
    assert read_audio(clip, max_samples=1).shape == (1,)


def test_a_file_longer_than_a_block_is_read_whole(tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", tone(600_000))
    wav = read_audio(tmp_path / "long.wav", max_samples=550_000)
    assert np.abs(wav - tone(600_000)[:550_000]).max() <= HALF_LSB


def test_a_wrong_rate_is_refused_naming_both_rates_and_the_option(tmp_path: Path) -> None:
    write_wav(tmp_path / "slow.wav", tone(800, 8000), 8000)
    with pytest.raises(AudioError, match="8000 Hz, wanted 16000 Hz.*resample"):
        read_audio(tmp_path / "slow.wav")


def test_resampling_keeps_duration_and_pitch(tmp_path: Path) -> None:
    write_wav(tmp_path / "slow.wav", tone(8000, 8000), 8000)
    wav = read_audio(tmp_path / "slow.wav", resample=True)
    assert wav.shape == (16000,)
    # away from the edges; 1e-3: pass band ripple of the resampler and 16-bit rounding
    assert np.abs(wav - tone(16000))[1000:-1000].max() < 1e-3


def test_resampling_then_cutting_equals_cutting_the_whole(tmp_path: Path) -> None:
    write_wav(tmp_path / "slow.wav", tone(8000, 8000), 8000)
    whole = read_audio(tmp_path / "slow.wav", resample=True)
    cut = read_audio(tmp_path / "slow.wav", resample=True, max_samples=3000)
    assert np.array_equal(cut, whole[:3000])


def test_resample_leaves_the_right_rate_alone(clip: Path) -> None:
    assert np.array_equal(read_audio(clip, resample=True, max_samples=70), read_audio(clip)[:70])


def test_the_native_rate_comes_with_the_samples(tmp_path: Path) -> None:
    write_wav(tmp_path / "slow.wav", tone(800, 8000), 8000)
    wav, rate_hz = read_native(tmp_path / "slow.wav")
    assert (len(wav), rate_hz) == (800, 8000)
    assert read_header(tmp_path / "slow.wav") == (800, 8000)


def test_a_slice_of_a_zip_archive_is_read(tmp_path: Path, clip: Path) -> None:
    archive = tmp_path / "pack.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as pack:
        pack.writestr("other.txt", "x" * 99)
        pack.write(clip, "clip.wav")
    raw = clip.read_bytes()
    offset = archive.read_bytes().index(raw)
    assert np.array_equal(read_audio(f"{archive}:{offset}:{len(raw)}"), read_audio(clip))
    assert read_header(f"{archive}:{offset}:{len(raw)}") == (5000, 16000)


def test_a_zip_slice_past_the_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pack.zip").write_bytes(b"PK" * 50)
    with pytest.raises(AudioError, match="the archive ends 20 bytes before"):
        read_audio(f"{tmp_path / 'pack.zip'}:20:100")


def test_a_missing_file_is_named_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: cannot be read.*audio root"):
        read_audio(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="gone"):
        read_header(tmp_path / "gone.wav")


@pytest.mark.parametrize("content", [b"", b"not audio at all", b"RIFF\x00\x00\x00\x00WAVE"])
def test_unreadable_audio_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"bad\.wav: cannot be read as audio"):
        read_audio(tmp_path / "bad.wav")


def test_audio_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match="holds no samples"):
        read_header(tmp_path / "empty.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, value, 0.0]), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_audio(tmp_path / "nan.wav")


def test_a_header_that_claims_too_many_samples_is_tolerated(clip: Path) -> None:
    assert np.array_equal(read_audio(with_data_size(clip, 2_000_000_000)), read_audio(clip))


@pytest.mark.parametrize("size", [0, 2000])
def test_a_header_that_claims_too_few_samples_is_tolerated(clip: Path, size: int) -> None:
    wrong = with_data_size(clip, size)
    assert np.array_equal(read_audio(wrong), read_audio(clip))
    assert np.array_equal(read_audio(wrong, max_samples=3000), read_audio(clip)[:3000])


def test_chunks_after_the_samples_are_not_read_as_samples(clip: Path) -> None:
    raw = clip.read_bytes()
    clip.write_bytes(raw + b"LIST" + struct.pack("<I", 200) + b"z" * 200)
    assert read_audio(clip).shape == (5000,)


def test_max_samples_must_be_positive(clip: Path) -> None:
    with pytest.raises(AudioError, match="max_samples is 0"):
        read_audio(clip, max_samples=0)


def test_samples_beyond_one_are_clipped_when_written(tmp_path: Path) -> None:
    write_wav(tmp_path / "loud.wav", np.array([2.0, -2.0, 0.0], dtype=np.float32))
    assert read_audio(tmp_path / "loud.wav").tolist() == [32767 / 32768, -1.0, 0.0]


def test_normalising_by_hand() -> None:
    # mean 2, variance 1
    wav = normalise(np.array([1.0, 3.0], dtype=np.float32), eps=0.0)
    assert wav.tolist() == [-1.0, 1.0]
    assert wav.dtype == np.float32


def test_normalising_agrees_with_layer_norm_as_fairseq_uses_it() -> None:
    wav = np.random.default_rng(0).normal(0.3, 0.01, 5000).astype(np.float32)
    wanted = F.layer_norm(torch.from_numpy(wav).double(), wav.shape).float().numpy()
    assert np.abs(normalise(wav) - wanted).max() < 1e-6  # float32 rounding of values up to 4


@pytest.mark.parametrize("wav", [np.zeros(400), np.full(400, 0.3), np.zeros(1), np.full(1, 0.7)])
def test_normalising_silence_or_a_constant_gives_zeros(wav: np.ndarray) -> None:
    assert normalise(wav.astype(np.float32)).tolist() == [0.0] * len(wav)


def test_normalising_nothing_gives_nothing() -> None:
    assert normalise(np.zeros(0, dtype=np.float32)).shape == (0,)

"""MFCCs against a slow own version and against Kaldi's."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_mtssl.features.mfcc import Mfcc, differences
from fairseq_mtssl.frames import frame_count
from fairseq_mtssl.modules.log_mel import BLOCK_FRAMES

ORACLES = str(Path(__file__).resolve().parents[2] / "oracles")
LENGTHS = (6000, 2345, 400, 9001, 4001, 399, 2000)


def waves() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in LENGTHS]


def mfcc_oracle() -> Any:
    sys.path.insert(0, ORACLES)
    return importlib.import_module("mfcc_oracle")


def extract(mfcc: Mfcc, wavs: list[np.ndarray]) -> list[np.ndarray]:
    """(T, 39) of the only layer."""
    frames = mfcc.extract(wavs)
    assert all(each.shape[1:] == (1, 39) for each in frames) and mfcc.names == [mfcc.source["features"]]
    return [each[:, 0] for each in frames]


def test_mfccs_equal_a_slow_version() -> None:
    oracle = mfcc_oracle()
    for wav, found in zip(waves(), extract(Mfcc(), waves()), strict=True):
        if len(wav) < 400:
            assert found.shape == (0, 39)
            continue
        static = oracle.mfcc(wav)
        first = oracle.differences(static)
        wanted = np.concatenate([static, first, oracle.differences(first)], axis=1)
        assert found.shape == wanted.shape == (frame_count(len(wav), 160, 400), 39)
        # float32 logarithms of powers: 1e-4 on cepstra of order 10
        np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (1.0, 0.5), (3000.0, 0.0)])
def test_mfccs_equal_kaldis(scale: float, offset: float) -> None:
    """Whatever the level, with a constant beside the sound, and over more than one block of frames."""
    library = pytest.importorskip("kaldi_native_fbank")
    options = library.MfccOptions()
    options.frame_opts.dither = 0.0
    options.num_ceps, options.use_energy = 13, False
    wav = np.random.default_rng(1).standard_normal(160 * 600).astype(np.float32) * np.float32(0.1)
    wav = wav * np.float32(scale) + np.float32(offset)
    computer = library.OnlineMfcc(options)
    computer.accept_waveform(16_000, wav)
    computer.input_finished()
    wanted = np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])
    found = extract(Mfcc(), [wav])[0]
    assert len(found) == len(wanted) > 2 * BLOCK_FRAMES
    np.testing.assert_allclose(found[:, :13], wanted, atol=1e-3)


def test_centred_mfccs_do_not_hear_the_gain() -> None:
    """Gain adds a constant to the log spectrum, and to nothing but the mean of its cepstra."""
    wav = next(wav for wav in waves() if len(wav) > 4000)
    plain, louder = extract(Mfcc(centred=True), [wav, 4 * wav])
    np.testing.assert_allclose(plain[:, :13].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(plain, louder, atol=2e-3)
    raw = extract(Mfcc(), [wav])[0]
    np.testing.assert_allclose(plain[:, 13:], raw[:, 13:], atol=1e-5)


def test_silence_gives_finite_mfccs_without_dither() -> None:
    first, second = extract(Mfcc(), [np.zeros(1000, dtype=np.float32)] * 2)
    assert np.isfinite(first).all() and np.array_equal(first, second)


def test_a_slope_is_found_exactly() -> None:
    ramp = 3.0 * np.arange(10.0)[:, None]
    assert differences(ramp)[2:-2].ravel().tolist() == [3.0] * 6
    # at the edge, repeated: (1·(3 − 0) + 2·(6 − 0)) / 10
    assert differences(ramp)[0, 0] == pytest.approx(1.5)

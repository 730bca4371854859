"""Log-mel energies against a slow own version and against Kaldi's."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq_mtssl.frames import frame_count
from fairseq_mtssl.modules.log_mel import BLOCK_FRAMES, log_mel

ORACLES = str(Path(__file__).resolve().parents[2] / "oracles")


def wave(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bins", [23, 80])
def test_log_mel_energies_equal_a_slow_version(bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ORACLES)
    oracle = importlib.import_module("mfcc_oracle")
    for samples in (400, 559, 560, 4001):
        found = log_mel(wave(samples).unsqueeze(0), bins)
        assert found.shape == (1, frame_count(samples, 160, 400), bins)
        # float32 powers of noise, none of them far below the others
        np.testing.assert_allclose(found[0].numpy(), oracle.log_mel(wave(samples).numpy(), bins), atol=1e-3)


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (1.0, 5.0), (3000.0, 0.0)])
def test_80_filterbanks_equal_kaldis(scale: float, offset: float) -> None:
    """Whatever the level, with a constant beside the sound, and over more than one block of frames."""
    library = pytest.importorskip("kaldi_native_fbank")
    options = library.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80
    wav = wave(160 * 600) * scale + offset
    computer = library.OnlineFbank(options)
    computer.accept_waveform(16_000, wav.numpy())
    computer.input_finished()
    wanted = np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])
    found = log_mel(wav.unsqueeze(0), 80)[0]
    assert len(found) == len(wanted) > 2 * BLOCK_FRAMES
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-3)


@pytest.mark.parametrize("rows", [1, 3, BLOCK_FRAMES + 1])
def test_a_batch_gives_what_each_row_gives_alone(rows: int) -> None:
    batch = torch.stack([wave(8_000, seed) for seed in range(rows)])
    together = log_mel(batch, 80)
    for row in (0, rows // 2, rows - 1):
        torch.testing.assert_close(together[row], log_mel(batch[row : row + 1], 80)[0], atol=1e-5, rtol=1e-6)


def test_what_follows_a_window_does_not_change_it() -> None:
    wav = wave(4_000)
    longer = torch.nn.functional.pad(wav, (0, 1_000))
    found = log_mel(longer.unsqueeze(0), 80)[0, : frame_count(4_000, 160, 400)]
    torch.testing.assert_close(found, log_mel(wav.unsqueeze(0), 80)[0], atol=1e-5, rtol=1e-6)


def test_a_clip_below_one_window_has_no_frames_and_silence_is_finite() -> None:
    assert log_mel(torch.zeros(2, 399), 80).shape == (2, 0, 80)
    assert torch.isfinite(log_mel(torch.zeros(2, 1_000), 80)).all()


def test_it_is_computed_in_single_precision_whatever_surrounds_it() -> None:
    batch = wave(4_000).unsqueeze(0)
    wanted = log_mel(batch, 80)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(batch, 80), wanted)
    half = log_mel(batch.half(), 80)
    assert half.dtype == torch.float32
    assert torch.equal(half, log_mel(batch.half().float(), 80))
    with torch.inference_mode():
        assert torch.equal(log_mel(batch, 80), wanted)

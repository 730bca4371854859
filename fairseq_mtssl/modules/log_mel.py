"""Log-mel filterbank energies at 100 Hz: Kaldi's, computed in blocks of frames with matrices made once."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.frames import SAMPLE_RATE_HZ, frame_count
from fairseq_mtssl.kernels.side_by_side import side_by_side

HOP_SAMPLES = SAMPLE_RATE_HZ // 100
WINDOW_SAMPLES = SAMPLE_RATE_HZ // 40
LOW_HZ, PRE_EMPHASIS, SPECTRUM_SIZE = 20.0, 0.97, 512
FLOOR = float(np.finfo(np.float32).eps)
BLOCK_FRAMES = 256  # whose windows and spectra stay in a core's cache, 1 MB


@torch.no_grad()
def log_mel(source: Tensor, bins: int) -> Tensor:
    """(B, S) waveforms -> (B, T, bins) float32 logarithms of the power that each mel filter lets through.

    Kaldi's defaults without dither and energy: windows of 25 ms every 10 ms without their mean, pre-emphasis
    0.97, Povey's window, triangles from 20 Hz to 8 kHz; T = frame_count(S). Single precision whatever the
    model's, and no gradient.
    """
    frames = frame_count(source.size(1), HOP_SAMPLES, WINDOW_SAMPLES)
    source = source.float()
    found = source.new_empty(len(source), frames, bins)
    if frames == 0:
        return found
    window, mel = _matrices(bins, source.device)
    # Kaldi takes away the mean of each window and then emphasises. Both are linear: emphasise all, then take
    # away what that leaves of the mean. Only the first sample of a window would differ; its weight is 0.
    emphasised = source.clone()
    emphasised[:, 1:].sub_(source[:, :-1], alpha=PRE_EMPHASIS)
    # (B, S) -> (B, T, 400)
    emphasised = emphasised.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
    means = source.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES).mean(2, keepdim=True) * (1 - PRE_EMPHASIS)
    step = max(1, BLOCK_FRAMES // len(source)) if source.device.type == "cpu" else frames

    def transform(start: int) -> None:
        part = slice(start, min(start + step, frames))
        padded = source.new_empty(len(source), part.stop - start, SPECTRUM_SIZE)
        padded[..., WINDOW_SAMPLES:] = 0
        inside = padded[..., :WINDOW_SAMPLES]
        torch.sub(emphasised[:, part], means[:, part], out=inside)
        inside.mul_(window)
        # (B, t, 257) complex -> (B, t, 514): real and imaginary part of each frequency in turn. Their squares
        # are summed by the product with the filters, in which every frequency stands twice.
        squares = torch.view_as_real(torch.fft.rfft(padded)).flatten(-2).square_()
        found[:, part] = (squares @ mel).clamp_(min=FLOOR).log_()

    with torch.autocast(source.device.type, enabled=False):
        side_by_side(transform, range(0, frames, step))
    return found


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # else what the first caller gets could be used under inference mode alone
def _matrices(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Povey's window (400,) and mel filters (514, bins), each frequency of the spectrum in two rows."""
    time = torch.arange(WINDOW_SAMPLES, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * time / (WINDOW_SAMPLES - 1))) ** 0.85
    low, high = mel_of(torch.tensor([LOW_HZ, SAMPLE_RATE_HZ / 2], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, bins + 2, dtype=torch.float64)
    hertz = torch.arange(SPECTRUM_SIZE // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / SPECTRUM_SIZE
    places = mel_of(hertz)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (places[:, None] - left) / (centre - left)
    falling = (right - places[:, None]) / (right - centre)
    mel = torch.minimum(rising, falling).clamp(min=0)
    return window.float().to(device), mel.float().repeat_interleave(2, dim=0).to(device)


def mel_of(hertz: Tensor) -> Tensor:
    """Frequencies on the mel scale."""
    return 1127 * torch.log1p(hertz / 700)


def hertz_of(mel: Tensor) -> Tensor:
    """The inverse of `mel_of`."""
    return 700 * torch.expm1(mel / 1127)
